#include <modelopt/config/value_domain.h>

#include <algorithm>
#include <limits>
#include <utility>

#include <modelopt/config/enumeration.h>
#include <modelopt/config/threshold_calibration.h>
#include <modelopt/util/ordered_json.h>

namespace modelopt::config {
namespace {

using nlohmann::ordered_json;
using Problems = std::vector<ValueProblem>;

constexpr std::string_view kThreshold = "a number from 0 on and less than 1";
constexpr std::string_view kTarget = "a share from 0 on and less than 1";
constexpr std::string_view kAscending = "an ascending list of numbers from 0 on and less than 1";

Problems problem(const ordered_json& value, std::string_view expectation, std::string path = "") {
  return {{.path = std::move(path), .value = shown(value), .expectation = std::string(expectation)}};
}

/// A domain of which a value is a member or not, as a whole.
template <typename Contains>
ValueDomain domain(std::string expectation, ordered_json schema, Contains contains) {
  ValueDomain result{.expectation = expectation, .schema = std::move(schema)};
  result.problems = [contains, expectation](const ordered_json& value) {
    return contains(value) ? Problems{} : problem(value, expectation);
  };
  return result;
}

/// 1 - 1e-9 is 1 in fp32.
bool is_below_one(double value) { return value < 1.0 && static_cast<float>(value) < 1.0f; }

bool is_threshold(const ordered_json& value) {
  return value.is_number() && value.get<double>() >= 0.0 && is_below_one(value.get<double>());
}

bool is_ascending(const ordered_json& list) {
  return std::adjacent_find(list.begin(), list.end(), [](const ordered_json& a, const ordered_json& b) {
           return !(a.get<double>() < b.get<double>());
         }) == list.end();
}

/// One phase: a threshold, or an ascending list of them.
Problems threshold_problems(const ordered_json& value, const std::string& path) {
  if (!value.is_array())
    return is_threshold(value) ? Problems{} : problem(value, str(kThreshold, ", or an ascending list of them"), path);
  if (value.empty()) return problem(value, kAscending, path);
  for (std::size_t i = 0; i < value.size(); ++i)
    if (!is_threshold(value[i])) return problem(value[i], kThreshold, json_path(path, i));
  return is_ascending(value) ? Problems{} : problem(value, kAscending, path);
}

template <typename Check>
Problems phase_problems(const ordered_json& value, std::string_view expectation, Check check) {
  if (!value.is_object()) return problem(value, expectation);
  Problems found;
  for (const auto& [key, part] : value.items()) {
    const std::string path = json_path("", key);
    const Problems of_part =
        key == "prefill" || key == "decode" ? check(part, path) : Problems{{path, "unknown key", "prefill or decode"}};
    found.insert(found.end(), of_part.begin(), of_part.end());
  }
  return found;
}

std::size_t count(const ordered_json& thresholds) { return thresholds.is_array() ? thresholds.size() : 1; }

ordered_json by_phase(const ordered_json& of_phase) {
  return {{"type", "object"},
          {"properties", {{"prefill", of_phase}, {"decode", of_phase}}},
          {"additionalProperties", false}};
}

ordered_json number_schema(std::string_view lower_bound) {
  return {{"type", "number"}, {lower_bound, 0}, {"exclusiveMaximum", 1}};
}

}  // namespace

bool is_int64(const ordered_json& value) {
  constexpr std::uint64_t kLargest = std::numeric_limits<std::int64_t>::max();
  return value.is_number_integer() && !(value.is_number_unsigned() && value.get<std::uint64_t>() > kLargest);
}

ValueDomain integers(std::int64_t minimum, std::int64_t maximum) {
  ValueDomain result = domain(
      str("an integer from ", minimum, " to ", maximum),
      {{"type", "integer"}, {"minimum", minimum}, {"maximum", maximum}}, [minimum, maximum](const ordered_json& value) {
        return is_int64(value) && value.get<std::int64_t>() >= minimum && value.get<std::int64_t>() <= maximum;
      });
  result.minimum = minimum;
  result.maximum = maximum;
  return result;
}

ValueDomain integer_choices(std::vector<std::int64_t> choices) {
  ValueDomain result =
      domain(one_of(choices), {{"type", "integer"}, {"enum", choices}}, [choices](const ordered_json& value) {
        return is_int64(value) && std::find(choices.begin(), choices.end(), value.get<std::int64_t>()) != choices.end();
      });
  result.choices = std::move(choices);
  return result;
}

ValueDomain multiples(std::int64_t factor, std::int64_t maximum) {
  return domain(str("a positive multiple of ", factor),
                {{"type", "integer"}, {"minimum", factor}, {"maximum", maximum}, {"multipleOf", factor}},
                [factor, maximum](const ordered_json& value) {
                  if (!is_int64(value)) return false;
                  const auto number = value.get<std::int64_t>();
                  return number > 0 && number <= maximum && number % factor == 0;
                });
}

ValueDomain positive_or_minus_one(std::int64_t maximum, std::string_view meaning) {
  return domain(str("an integer from 1 to ", maximum, ", or -1 (", meaning, ")"),
                {{"type", "integer"}, {"minimum", -1}, {"maximum", maximum}, {"not", {{"const", 0}}}},
                [maximum](const ordered_json& value) {
                  if (!is_int64(value)) return false;
                  const auto number = value.get<std::int64_t>();
                  return number == -1 || (number > 0 && number <= maximum);
                });
}

ValueDomain booleans() {
  return domain("true or false", {{"type", "boolean"}}, [](const ordered_json& value) { return value.is_boolean(); });
}

ValueDomain strings() {
  return domain("a string", {{"type", "string"}}, [](const ordered_json& value) { return value.is_string(); });
}

ValueDomain thresholds() { return domain(std::string(kThreshold), number_schema("minimum"), is_threshold); }

ValueDomain threshold_lists() {
  return domain("an ascending list of numbers between 0 and 1",
                {{"type", "array"}, {"items", number_schema("exclusiveMinimum")}, {"minItems", 1}},
                [](const ordered_json& value) {
                  return value.is_array() && !value.empty() &&
                         std::all_of(
                             value.begin(), value.end(),
                             [](const ordered_json& item) { return is_threshold(item) && item.get<double>() > 0.0; }) &&
                         is_ascending(value);
                });
}

ValueDomain thresholds_by_phase() {
  const ordered_json number = number_schema("minimum");
  const std::string expectation = str("{\"prefill\": …, \"decode\": …}, of each ", kThreshold,
                                      ", or an ascending list of them, as long in one phase as in the other");
  ValueDomain result{
      .expectation = expectation,
      .schema = by_phase({{"oneOf", {number, {{"type", "array"}, {"items", number}, {"minItems", 1}}}}})};
  result.schema["minProperties"] = 1;
  result.problems = [expectation](const ordered_json& value) {
    if (value.is_object() && value.empty()) return problem(value, expectation);
    Problems found = phase_problems(value, expectation, threshold_problems);
    if (!found.empty() || value.size() < 2 || count(value["prefill"]) == count(value["decode"])) return found;
    return problem(value, str("as many thresholds in prefill as in decode (", count(value["prefill"]), " and ",
                              count(value["decode"]), ")"));
  };
  return result;
}

ValueDomain targets_by_phase() {
  const ordered_json number = number_schema("minimum");
  const std::string expectation = str(kTarget, ", or {\"prefill\": …, \"decode\": …} of such");
  ValueDomain result{.expectation = expectation, .schema = {{"oneOf", {number, by_phase(number)}}}};
  result.problems = [expectation](const ordered_json& value) {
    if (is_threshold(value)) return Problems{};
    return phase_problems(value, expectation, [](const ordered_json& part, const std::string& path) {
      return is_threshold(part) ? Problems{} : problem(part, kTarget, path);
    });
  };
  return result;
}

ValueDomain threshold_calibrations() {
  ValueDomain result{.expectation = "what `modelopt calibrate` writes", .schema = {{"type", "object"}}};
  result.problems = [](const ordered_json& value) -> Problems {
    try {
      static_cast<void>(parse_threshold_calibration(value, "", ""));
      return {};
    } catch (const ConfigError& error) {  // ": PATH: VALUE, expected EXPECTATION"
      const std::string text = std::string(error.what()).substr(2);
      const std::size_t colon = text.find(": "), expected = text.rfind(", expected ");
      return {{text.substr(0, colon), text.substr(colon + 2, expected - colon - 2), text.substr(expected + 11)}};
    }
  };
  return result;
}

}  // namespace modelopt::config
