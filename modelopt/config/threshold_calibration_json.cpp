// ThresholdCalibration as JSON, both ways.
#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include <modelopt/config/enumeration.h>
#include <modelopt/config/threshold_calibration.h>
#include <modelopt/util/ordered_json.h>

namespace modelopt::config {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t kHashDigits = 64;
constexpr std::int64_t kMaxInteger = std::numeric_limits<std::int64_t>::max();

/// A JSON value with its place, for messages. It views the value.
class Node {
 public:
  Node(const ordered_json& value, std::string_view origin, std::string path)
      : value_(value), origin_(origin), path_(std::move(path)) {}

  [[noreturn]] void fail(std::string_view expectation) const {
    throw ConfigError(str(origin_, ": ", path_, ": ", shown(value_), ", expected ", expectation));
  }

  /// Checks that this is an object with these keys only.
  const Node& expect_keys(const std::vector<std::string_view>& keys) const {
    if (!value_.is_object()) fail("an object");
    for (const auto& [key, value] : value_.items()) {
      MODELOPT_CHECK(std::find(keys.begin(), keys.end(), key) != keys.end(), ConfigError, origin_, ": ",
                     json_path(path_, key), ": unknown key, expected ", one_of(keys));
    }
    return *this;
  }

  [[nodiscard]] std::optional<Node> find(std::string_view key) const {
    const auto found = value_.find(key);
    if (found == value_.end()) return std::nullopt;
    return Node(*found, origin_, json_path(path_, key));
  }

  [[nodiscard]] Node at(std::string_view key, std::string_view expectation) const {
    const auto found = find(key);
    MODELOPT_CHECK(found, ConfigError, origin_, ": ", json_path(path_, key), ": missing, expected ", expectation);
    return *found;
  }

  [[nodiscard]] std::vector<Node> elements(std::string_view expectation) const {
    if (!value_.is_array() || value_.empty()) fail(expectation);
    std::vector<Node> result;
    for (std::size_t i = 0; i < value_.size(); ++i) result.emplace_back(value_[i], origin_, json_path(path_, i));
    return result;
  }

  [[nodiscard]] std::int64_t integer(std::int64_t least, std::string_view expectation) const {
    const bool fits = value_.is_number_integer() &&
                      !(value_.is_number_unsigned() && value_.get<std::uint64_t>() > std::uint64_t{kMaxInteger});
    if (!fits || value_.get<std::int64_t>() < least) fail(expectation);
    return value_.get<std::int64_t>();
  }

  [[nodiscard]] std::uint64_t seed() const {
    if (!value_.is_number_unsigned()) fail("an integer from 0 to 18446744073709551615");
    return value_.get<std::uint64_t>();
  }

  /// A number for which `valid` holds.
  template <typename Valid>
  [[nodiscard]] double number(Valid valid, std::string_view expectation) const {
    if (!value_.is_number() || !std::isfinite(value_.get<double>()) || !valid(value_.get<double>())) fail(expectation);
    return value_.get<double>();
  }

  [[nodiscard]] std::string text(std::string_view expectation) const {
    if (!value_.is_string()) fail(expectation);
    return value_.get<std::string>();
  }

  [[nodiscard]] std::int64_t integer_at(std::string_view key, std::int64_t least, std::string_view expectation) const {
    return at(key, expectation).integer(least, expectation);
  }

  template <typename Valid>
  [[nodiscard]] double number_at(std::string_view key, Valid valid, std::string_view expectation) const {
    return at(key, expectation).number(valid, expectation);
  }

 private:
  const ordered_json& value_;
  std::string_view origin_;
  std::string path_;
};

bool is_positive(double value) { return value > 0.0; }
bool is_share(double value) { return value >= 0.0 && value <= 1.0; }

constexpr std::string_view kPositiveInteger = "a positive integer";
constexpr std::string_view kShare = "a share from 0 to 1";

ExponentialFit read_fit(const Node& node) {
  node.expect_keys({"length", "points", "r_squared", "min_sparsity", "max_sparsity", "min_length", "max_length"});
  ExponentialFit fit;
  fit.length = node.integer_at("length", 1, kPositiveInteger);
  fit.points = node.integer_at("points", 2, "an integer of at least 2");
  fit.r_squared = node.number_at(
      "r_squared", [](double value) { return value <= 1.0; }, "a number of at most 1");
  fit.min_sparsity = node.number_at("min_sparsity", is_share, kShare);
  fit.max_sparsity = node.number_at(
      "max_sparsity", [&](double value) { return is_share(value) && value >= fit.min_sparsity; },
      "a share from min_sparsity to 1");
  fit.min_length = node.integer_at("min_length", 1, kPositiveInteger);
  fit.max_length = node.integer_at("max_length", fit.min_length, "an integer of at least min_length");
  return fit;
}

ExponentialThreshold read_exponential(const Node& node) {
  node.expect_keys({"a", "b", "fit"});
  ExponentialThreshold result;
  result.a = node.number_at("a", is_positive, "a positive number");
  result.b = node.number_at("b", is_positive, "a positive number");
  if (const auto fit = node.find("fit")) result.fit = read_fit(*fit);
  return result;
}

std::vector<double> read_shares(const Node& node, std::size_t trials) {
  const std::string expectation =
      str("an array of ", trials, " shares from 0 to 1, as many as thresholds, not falling");
  const auto elements = node.elements(expectation);
  if (elements.size() != trials) node.fail(expectation);
  std::vector<double> shares;
  for (const Node& element : elements) {
    shares.push_back(element.number(is_share, kShare));
    if (shares.size() > 1 && shares.back() < shares[shares.size() - 2]) element.fail("no less than the share before");
  }
  return shares;
}

ThresholdTable read_table(const Node& node) {
  node.expect_keys({"lengths", "thresholds", "shares", "layer_spread"});
  ThresholdTable table;
  constexpr std::string_view kLengths = "an array of ascending positive integers";
  for (const Node& length : node.at("lengths", kLengths).elements(kLengths))
    table.lengths.push_back(
        length.integer(table.lengths.empty() ? 1 : table.lengths.back() + 1, "ascending positive integers"));
  constexpr std::string_view kThresholds = "an array of ascending numbers between 0 and 1";
  for (const Node& threshold : node.at("thresholds", kThresholds).elements(kThresholds)) {
    const double last = table.thresholds.empty() ? 0.0 : table.thresholds.back();
    table.thresholds.push_back(threshold.number([&](double value) { return value > last && value < 1.0; },
                                                "ascending numbers between 0 and 1"));
  }
  const std::string rows = str("an array of ", table.lengths.size(), " arrays of shares, one per length");
  const Node shares = node.at("shares", rows);
  for (const Node& row : shares.elements(rows)) table.shares.push_back(read_shares(row, table.thresholds.size()));
  if (table.shares.size() != table.lengths.size()) shares.fail(rows);
  const std::string spreads = str("an array of ", table.thresholds.size(), " numbers from 0 on, as many as thresholds");
  const Node spread = node.at("layer_spread", spreads);
  for (const Node& value : spread.elements(spreads))
    table.layer_spread.push_back(value.number([](double number) { return number >= 0.0; }, "a number from 0 on"));
  if (table.layer_spread.size() != table.thresholds.size()) spread.fail(spreads);
  return table;
}

PhaseCalibration read_phase(const Node& node) {
  node.expect_keys({"form", "exponential", "table"});
  PhaseCalibration phase;
  const std::vector<std::string_view> names = {to_string(CalibrationForm::kExponential),
                                               to_string(CalibrationForm::kTable)};
  const Node form = node.at("form", one_of(names));
  const std::string name = form.text(one_of(names));
  if (name == names[0]) {
    phase.form = CalibrationForm::kExponential;
  } else if (name != names[1]) {
    form.fail(one_of(names));
  }
  static_cast<void>(node.at(name, "the part that \"form\" names"));
  if (const auto exponential = node.find(names[0])) phase.exponential = read_exponential(*exponential);
  if (const auto table = node.find(names[1])) phase.table = read_table(*table);
  return phase;
}

CalibrationProvenance read_provenance(const Node& node) {
  node.expect_keys({"data_hash", "seed", "samples"});
  CalibrationProvenance result;
  constexpr std::string_view kHash = "64 hexadecimal digits in lower case";
  const Node hash = node.at("data_hash", kHash);
  result.data_hash = hash.text(kHash);
  if (result.data_hash.size() != kHashDigits ||
      result.data_hash.find_first_not_of("0123456789abcdef") != std::string::npos)
    hash.fail(kHash);
  result.seed = node.at("seed", "an integer").seed();
  result.samples = node.integer_at("samples", 1, kPositiveInteger);
  return result;
}

ordered_json to_json(const ExponentialThreshold& exponential) {
  ordered_json json = {{"a", exponential.a}, {"b", exponential.b}};
  if (const auto& fit = exponential.fit)
    json["fit"] = {{"length", fit->length},
                   {"points", fit->points},
                   {"r_squared", fit->r_squared},
                   {"min_sparsity", fit->min_sparsity},
                   {"max_sparsity", fit->max_sparsity},
                   {"min_length", fit->min_length},
                   {"max_length", fit->max_length}};
  return json;
}

ordered_json to_json(const PhaseCalibration& phase) {
  ordered_json json = {{"form", to_string(phase.form)}};
  if (phase.exponential) json["exponential"] = to_json(*phase.exponential);
  if (const auto& table = phase.table)
    json["table"] = {{"lengths", table->lengths},
                     {"thresholds", table->thresholds},
                     {"shares", table->shares},
                     {"layer_spread", table->layer_spread}};
  return json;
}

}  // namespace

ordered_json to_json(const ThresholdCalibration& calibration) {
  ordered_json json = {{"br", calibration.br}, {"bc", calibration.bc}};
  if (const auto& provenance = calibration.provenance)
    json["provenance"] = {
        {"data_hash", provenance->data_hash}, {"seed", provenance->seed}, {"samples", provenance->samples}};
  if (calibration.prefill) json["prefill"] = to_json(*calibration.prefill);
  if (calibration.decode) json["decode"] = to_json(*calibration.decode);
  return json;
}

ThresholdCalibration parse_threshold_calibration(const ordered_json& json, std::string_view origin,
                                                 std::string_view path) {
  const Node node(json, origin, std::string(path));
  node.expect_keys({"br", "bc", "provenance", "prefill", "decode"});
  ThresholdCalibration result;
  result.br = node.integer_at("br", 1, kPositiveInteger);
  const Node bc = node.at("bc", "a positive multiple of 8");
  result.bc = bc.integer(1, "a positive multiple of 8");
  if (result.bc % 8 != 0) bc.fail("a positive multiple of 8");
  if (const auto provenance = node.find("provenance")) result.provenance = read_provenance(*provenance);
  if (const auto prefill = node.find("prefill")) result.prefill = read_phase(*prefill);
  if (const auto decode = node.find("decode")) result.decode = read_phase(*decode);
  if (!result.prefill && !result.decode) node.fail("prefill, decode or both");
  return result;
}

}  // namespace modelopt::config
