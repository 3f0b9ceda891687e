#include <modelopt/config/threshold_calibration.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>
#include <nlohmann/json.hpp>

#include <cmath>
#include <functional>
#include <string>

using namespace modelopt;
using namespace modelopt::config;
using Catch::Matchers::WithinRel;
using nlohmann::ordered_json;

namespace {

// Trials at powers of ten, lengths a factor of four apart: halfway in the logarithm is 2000 tokens, 10^-1.5.
ThresholdTable some_table() {
  return {.lengths = {1000, 4000},
          .thresholds = {0.001, 0.01, 0.1},
          .shares = {{0.0, 0.1, 0.3}, {0.2, 0.5, 0.5}},
          .layer_spread = {0.01, 0.02, 0.03}};
}

ExponentialThreshold some_exponential() {
  return {.a = 2.0,
          .b = 5.0,
          .fit = ExponentialFit{.length = 4000,
                                .points = 12,
                                .r_squared = 0.97,
                                .min_sparsity = 0.15,
                                .max_sparsity = 0.85,
                                .min_length = 1000,
                                .max_length = 8000}};
}

PhaseCalibration by_table() {
  return {.form = CalibrationForm::kTable, .exponential = std::nullopt, .table = some_table()};
}
PhaseCalibration by_exponential() {
  return {.form = CalibrationForm::kExponential, .exponential = some_exponential(), .table = std::nullopt};
}

ThresholdCalibration some_calibration() {
  PhaseCalibration decode = by_exponential();
  decode.table = some_table();
  return {.br = 64,
          .bc = 32,
          .provenance =
              CalibrationProvenance{.data_hash = std::string(64, 'a'), .seed = 18446744073709551615U, .samples = 16},
          .prefill = by_table(),
          .decode = decode};
}

std::string refusal(const PhaseCalibration& phase, double target, std::int64_t length) {
  try {
    (void)phase.threshold(target, length);
  } catch (const ConfigError& error) {
    CHECK(phase.out_of_range(target, length) == error.what());
    return error.what();
  }
  return "no error";
}

// The message for some_calibration() as JSON with a change.
std::string parse_message(const std::function<void(ordered_json&)>& change) {
  ordered_json json = to_json(some_calibration());
  change(json);
  try {
    (void)parse_threshold_calibration(json, "state.json", "$.calibration");
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("the exponential is a exp(b target) over the length") {
  CHECK_THAT(by_exponential().threshold(0.5, 4000), WithinRel(2.0 * std::exp(2.5) / 4000.0, 1e-15));
  CHECK_THAT(by_exponential().threshold(0.15, 1000), WithinRel(2.0 * std::exp(0.75) / 1000.0, 1e-15));
}

TEST_CASE("the table returns its entries where a target was measured") {
  const PhaseCalibration phase = by_table();
  CHECK(phase.threshold(0.1, 1000) == 0.01);
  CHECK(phase.threshold(0.3, 1000) == 0.1);
  CHECK(phase.threshold(0.2, 4000) == 0.001);
  CHECK(phase.threshold(0.5, 4000) == 0.01);  // the smallest of two thresholds with this share
}

TEST_CASE("the table interpolates in the logarithms of threshold and length") {
  const PhaseCalibration phase = by_table();
  CHECK_THAT(phase.threshold(0.2, 1000), WithinRel(std::pow(10.0, -1.5), 1e-12));
  const std::vector<double> halfway = some_table().shares_at(2000);
  REQUIRE(halfway.size() == 3);
  CHECK_THAT(halfway[0], WithinRel(0.1, 1e-12));
  CHECK_THAT(halfway[1], WithinRel(0.3, 1e-12));
  CHECK_THAT(halfway[2], WithinRel(0.4, 1e-12));
  CHECK_THAT(phase.threshold(0.2, 2000), WithinRel(std::pow(10.0, -2.5), 1e-12));
}

TEST_CASE("share is the inverse of threshold") {
  const ThresholdTable table = some_table();
  for (const std::int64_t length : {1000, 1300, 2000, 3999})
    for (const double target : {0.21, 0.25, 0.29})
      CHECK_THAT(table.share(table.threshold(target, length), length), WithinRel(target, 1e-12));
  CHECK(table.share(0.5, 1000) == 0.3);
  CHECK(table.share(1e-6, 4000) == 0.2);
}

TEST_CASE("targets and lengths that were not measured are refused, with the range that was") {
  const PhaseCalibration table = by_table();
  CHECK(refusal(table, 0.35, 1000) ==
        "target sparsity 0.35 at 1000 tokens, expected 0 to 0.3, what was measured at this length");
  CHECK(refusal(table, 0.05, 2000) ==
        "target sparsity 0.05 at 2000 tokens, expected 0.1 to 0.4, what was measured at this length");
  CHECK(refusal(table, 0.2, 999) ==
        "target sparsity 0.2 at 999 tokens, expected 1000 to 4000 tokens, the lengths of the calibration");
  CHECK(refusal(table, 0.2, 4001) ==
        "target sparsity 0.2 at 4001 tokens, expected 1000 to 4000 tokens, the lengths of the calibration");
  const PhaseCalibration exponential = by_exponential();
  CHECK(refusal(exponential, 0.9, 4000) ==
        "target sparsity 0.9 at 4000 tokens, expected 0.15 to 0.85, the range of the exponential fit");
  CHECK(refusal(exponential, 0.5, 9000) ==
        "target sparsity 0.5 at 9000 tokens, expected 1000 to 8000 tokens, the lengths of the calibration");
  PhaseCalibration steep = exponential;
  steep.exponential->b = 10.0;
  CHECK(refusal(steep, 0.8, 1000) ==
        "target sparsity 0.8 at 1000 tokens: the exponential fit gives a threshold of 5.962, expected less than 1");
  CHECK(refusal(table, 0.3, 1000) == "no error");
  CHECK(refusal(exponential, 0.85, 8000) == "no error");
}

TEST_CASE("extrapolation that is asked for uses the nearest entry of the table, and the formula") {
  CHECK(by_table().threshold(0.35, 1000, Extrapolation::kAllow) == 0.1);
  CHECK(by_table().threshold(0.05, 2000, Extrapolation::kAllow) == 0.001);
  CHECK(by_table().threshold(0.1, 10, Extrapolation::kAllow) == 0.01);
  CHECK(by_table().threshold(0.5, 1000000, Extrapolation::kAllow) == 0.01);
  CHECK_THAT(by_exponential().threshold(0.95, 10, Extrapolation::kAllow), WithinRel(0.2 * std::exp(4.75), 1e-15));
}

TEST_CASE("a and b of another tool have no range, but a threshold is below 1") {
  PhaseCalibration phase = by_exponential();
  phase.exponential->fit.reset();
  CHECK_THAT(phase.threshold(0.95, 4000000), WithinRel(2.0 * std::exp(4.75) / 4e6, 1e-15));
  CHECK(refusal(phase, 0.95, 10).ends_with("expected less than 1"));
  CHECK_FALSE(phase.largest_sparsity(1000));
}

TEST_CASE("the largest sparsity is the share of the largest threshold at the length") {
  CHECK(by_table().largest_sparsity(1000) == 0.3);
  CHECK_THAT(*by_table().largest_sparsity(2000), WithinRel(0.4, 1e-12));
  CHECK(by_table().largest_sparsity(100000) == 0.5);
  CHECK(by_exponential().largest_sparsity(1000) == 0.85);
}

TEST_CASE("parsing what to_json wrote gives an equal calibration") {
  const ThresholdCalibration full = some_calibration();
  CHECK(parse_threshold_calibration(ordered_json::parse(to_json(full).dump()), "x") == full);
  ThresholdCalibration least;
  least.decode = PhaseCalibration{.form = CalibrationForm::kExponential,
                                  .exponential = ExponentialThreshold{.a = 0.1, .b = 1.0 / 3.0, .fit = std::nullopt},
                                  .table = std::nullopt};
  CHECK(to_json(least).dump() ==
        R"({"br":128,"bc":128,"decode":{"form":"exponential","exponential":{"a":0.1,"b":0.3333333333333333}}})");
  CHECK(parse_threshold_calibration(ordered_json::parse(to_json(least).dump()), "x") == least);
}

TEST_CASE("what is wrong in the JSON of a calibration is named with its place") {
  CHECK(parse_message([](ordered_json&) {}) == "no error");
  CHECK(parse_message([](ordered_json& json) { json = 3; }) == "state.json: $.calibration: 3, expected an object");
  CHECK(parse_message([](ordered_json& json) { json["scale"] = 1; }) ==
        "state.json: $.calibration.scale: unknown key, expected br, bc, provenance, prefill or decode");
  CHECK(parse_message([](ordered_json& json) { json.erase("br"); }) ==
        "state.json: $.calibration.br: missing, expected a positive integer");
  CHECK(parse_message([](ordered_json& json) { json["br"] = 128.0; }) ==
        "state.json: $.calibration.br: 128.0, expected a positive integer");
  CHECK(parse_message([](ordered_json& json) { json["bc"] = 12; }) ==
        "state.json: $.calibration.bc: 12, expected a positive multiple of 8");
  CHECK(parse_message([](ordered_json& json) {
          json.erase("prefill"), json.erase("decode");
        }).ends_with("expected prefill, decode or both"));
  CHECK(parse_message([](ordered_json& json) { json["provenance"]["data_hash"] = "A0"; }) ==
        "state.json: $.calibration.provenance.data_hash: \"A0\", expected 64 hexadecimal digits in lower case");
  CHECK(parse_message([](ordered_json& json) { json["provenance"]["seed"] = -1; }) ==
        "state.json: $.calibration.provenance.seed: -1, expected an integer from 0 to 18446744073709551615");
  CHECK(parse_message([](ordered_json& json) { json["prefill"]["form"] = "linear"; }) ==
        "state.json: $.calibration.prefill.form: \"linear\", expected exponential or table");
  CHECK(parse_message([](ordered_json& json) { json["prefill"]["form"] = "exponential"; }) ==
        "state.json: $.calibration.prefill.exponential: missing, expected the part that \"form\" names");
  CHECK(parse_message([](ordered_json& json) { json["decode"]["exponential"]["b"] = 0; }) ==
        "state.json: $.calibration.decode.exponential.b: 0, expected a positive number");
  CHECK(parse_message([](ordered_json& json) { json["decode"]["exponential"]["fit"]["max_sparsity"] = 0.1; }) ==
        "state.json: $.calibration.decode.exponential.fit.max_sparsity: 0.1, expected a share from min_sparsity to 1");
}

TEST_CASE("a table whose parts do not agree is refused") {
  const auto with = [](const std::string& key, const ordered_json& value) {
    return parse_message([&](ordered_json& json) { json["prefill"]["table"][key] = value; });
  };
  const std::string at = "state.json: $.calibration.prefill.table.";
  CHECK(with("lengths", {4000, 1000}) == at + "lengths[1]: 1000, expected ascending positive integers");
  CHECK(with("lengths", ordered_json::array()) == at + "lengths: [], expected an array of ascending positive integers");
  CHECK(with("thresholds", {0.1, 0.1, 0.2}) == at + "thresholds[1]: 0.1, expected ascending numbers between 0 and 1");
  CHECK(with("thresholds", {0.1, 0.5, 1.0}) == at + "thresholds[2]: 1.0, expected ascending numbers between 0 and 1");
  CHECK(with("shares", ordered_json::array({{0.1, 0.2, 0.3}})) ==
        at + "shares: [[0.1,0.2,0.3]], expected an array of 2 arrays of shares, one per length");
  CHECK(with("shares", ordered_json::array({{0.1, 0.2, 0.3}, {0.1, 0.3, 0.2}})) ==
        at + "shares[1][2]: 0.2, expected no less than the share before");
  CHECK(with("shares", ordered_json::array({{0.1, 0.2}, {0.1, 0.3}})) ==
        at + "shares[0]: [0.1,0.2], expected an array of 3 shares from 0 to 1, as many as thresholds, not falling");
  CHECK(with("layer_spread", {0.1, 0.1}) ==
        at + "layer_spread: [0.1,0.1], expected an array of 3 numbers from 0 on, as many as thresholds");
}
