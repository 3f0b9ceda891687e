#include <modelopt/methods/calibrated_threshold.h>

#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cmath>
#include <string>

#include <modelopt/attention/attention_interface.h>
#include <modelopt/methods/skip_softmax.h>
#include "modelopt/attention/packed_call.h"
#include "modelopt/models/captured_stderr.h"

using namespace modelopt;
using namespace modelopt::methods;
using attention::Phase;
using attention::ThresholdCounts;

namespace {

// At 100 tokens at most 0.3 can be skipped, at 400 tokens 0.6.
config::PhaseCalibration by_table() {
  return {.form = config::CalibrationForm::kTable,
          .exponential = std::nullopt,
          .table = config::ThresholdTable{.lengths = {100, 400},
                                          .thresholds = {0.01, 0.1, 0.9999},
                                          .shares = {{0.0, 0.1, 0.3}, {0.2, 0.5, 0.6}},
                                          .layer_spread = {0.0, 0.0, 0.0}}};
}

config::PhaseCalibration by_exponential(double a) {
  return {.form = config::CalibrationForm::kExponential,
          .exponential = config::ExponentialThreshold{.a = a, .b = 3.0, .fit = std::nullopt},
          .table = std::nullopt};
}

// The log line without its time, which stands in brackets; "" where nothing was logged.
std::string warning_of(const CalibratedThreshold& threshold, std::int64_t length) {
  const test::CapturedStderr log;
  (void)threshold.at(length);
  const std::string text = log.text();
  return text.empty() ? "" : text.substr(text.find("] ") + 2);
}

}  // namespace

TEST_CASE("calibrated threshold: within what was measured nothing is said") {
  const CalibratedThreshold threshold("layer", Phase::kPrefill, by_table(), 0.1);
  const test::CapturedStderr log;
  CHECK(threshold.at(100) == 0.1);
  CHECK(threshold.at(0) == 0.0);  // no keys, and no threshold
  CHECK(log.text().empty());
  CHECK(threshold.counts() == ThresholdCounts{.calibrated = 1});
}

TEST_CASE("calibrated threshold: a target out of reach is said with what can be reached, and where") {
  const CalibratedThreshold threshold("layer", Phase::kPrefill, by_table(), 0.5);
  CHECK(warning_of(threshold, 400).empty());
  CHECK(warning_of(threshold, 100) ==
        "warning skip-softmax on layer, prefill: target sparsity 0.5 at 100 tokens, expected 0 to 0.3, what was "
        "measured at "
        "this length; the threshold is 0.9999; of the measured lengths, 400 can reach the target (said once for "
        "each module)\n");
  CHECK(warning_of(threshold, 100).empty());
  CHECK(threshold.counts() == ThresholdCounts{.calibrated = 3, .out_of_range = 2});
}

TEST_CASE("calibrated threshold: lengths beyond those of the calibration are said, with the threshold they get") {
  const CalibratedThreshold decode("layer", Phase::kDecode, by_table(), 0.05);
  CHECK(warning_of(decode, 4000) ==
        "warning skip-softmax on layer, decode: target sparsity 0.05 at 4000 tokens, expected 100 to 400 tokens, the "
        "lengths of "
        "the calibration; the threshold is 0.01; of the measured lengths, 100 can reach the target (said once for "
        "each module)\n");
  const CalibratedThreshold unreachable("layer", Phase::kPrefill, by_table(), 0.7);
  CHECK(warning_of(unreachable, 20) ==
        "warning skip-softmax on layer, prefill: target sparsity 0.7 at 20 tokens, expected 100 to 400 tokens, the "
        "lengths of "
        "the calibration; the threshold is 0.9999; of the measured lengths, none can reach the target (said once for "
        "each module)\n");
}

TEST_CASE("calibrated threshold: within a tenth a length is as good as measured") {
  const CalibratedThreshold threshold("layer", Phase::kPrefill, by_table(), 0.25);
  CHECK(warning_of(threshold, 91).empty());
  CHECK(warning_of(threshold, 440).empty());
  CHECK(threshold.counts().out_of_range == 0);
  CHECK(warning_of(threshold, 90).find("0.25 at 90 tokens, expected 100 to 400 tokens") != std::string::npos);
  CHECK_FALSE(warning_of(CalibratedThreshold("layer", Phase::kPrefill, by_table(), 0.26), 441).empty());
}

TEST_CASE("calibrated threshold: an exponential that gives 1 or more is clamped, said and counted") {
  const CalibratedThreshold threshold("layer", Phase::kPrefill, by_exponential(2.0), 0.5);
  CHECK(threshold.at(1000) == 2.0 * std::exp(1.5) / 1000.0);
  CHECK(warning_of(threshold, 4) ==
        "warning skip-softmax on layer, prefill: target sparsity 0.5 at 4 tokens: the exponential fit gives a "
        "threshold of "
        "2.241, expected less than 1; the threshold is 0.9999 (said once for each module)\n");
  CHECK(threshold.at(5) == kLargestThreshold);
  CHECK(threshold.counts() == ThresholdCounts{.calibrated = 3, .out_of_range = 2, .clamped = 2});
}

TEST_CASE(
    "calibrated threshold: each module is warned about once, whatever its calls and whoever sparsifies it again") {
  const auto of = [](const std::string& module, double target = 0.55, Phase phase = Phase::kPrefill) {
    return CalibratedThreshold(module, phase, by_table(), target);
  };
  const auto begin = [](const std::string& text, const std::string& with) { return text.starts_with(with); };
  const CalibratedThreshold first = of("layers.0"), second = of("layers.1");
  CHECK(begin(warning_of(first, 100), "warning skip-softmax on layers.0, prefill: target sparsity 0.55 at 100 tokens"));
  CHECK(
      begin(warning_of(second, 100), "warning skip-softmax on layers.1, prefill: target sparsity 0.55 at 100 tokens"));
  CHECK(warning_of(first, 100).empty());
  CHECK(warning_of(second, 100).empty());
  CHECK(first.counts().out_of_range == 2);
  CHECK(second.counts().out_of_range == 2);
  const CalibratedThreshold again = of("layers.0");  // as an evaluation does for each window
  CHECK(warning_of(again, 100).empty());
  CHECK(again.counts().out_of_range == 1);
  CHECK_FALSE(warning_of(of("layers.0", 0.56), 100).empty());                               // another target
  CHECK_FALSE(warning_of(of("layers.0", 0.55, Phase::kDecode), 100).empty());               // another phase
  CHECK(begin(warning_of(of(""), 100), "warning skip-softmax, prefill: target sparsity"));  // the model itself
}

TEST_CASE("calibrated threshold: a method warns by the name of its module") {
  const config::SkipSoftmaxConfig parameters{
      .threshold =
          config::ThresholdCalibration{.br = 16, .bc = 8, .prefill = by_exponential(500.0), .decode = std::nullopt},
      .target_sparsity = {.prefill = 0.5, .decode = std::nullopt},
      .br = 16,
      .bc = 8};
  const auto bound = [&](const std::string& module) {
    return SkipSoftmax()
        .bind(parameters, {.name = module, .class_name = "LlamaAttention", .num_heads = 4, .head_dim = 16})
        .active;
  };
  const auto methods = {bound("layers.7"), bound("layers.8")};
  const attention::AttentionCall call = attention::random_call({{1}, {10}});
  const test::CapturedStderr log;
  for (int forward = 0; forward < 2; ++forward) {
    for (const auto& method : methods) {
      attention::AttentionPlan plan;
      const auto scope = method->activate(plan, call);
      CHECK(plan.skip_softmax_threshold == kLargestThreshold);
    }
  }
  const std::string text = log.text();
  CHECK(std::count(text.begin(), text.end(), '\n') == 2);
  CHECK(text.find("skip-softmax on layers.7, prefill") < text.find("skip-softmax on layers.8, prefill"));
  CHECK(text.find("skip-softmax on layers.8, prefill") != std::string::npos);
  for (const auto& method : methods) CHECK(method->threshold_counts(Phase::kPrefill).clamped == 2);
}

TEST_CASE("calibrated threshold: the method asks for every sequence of a call, in the phase that is calibrated") {
  const config::SkipSoftmaxConfig parameters{
      .threshold =
          config::ThresholdCalibration{.br = 16, .bc = 8, .prefill = by_exponential(400.0), .decode = std::nullopt},
      .target_sparsity = {.prefill = 0.5, .decode = std::nullopt},
      .br = 16,
      .bc = 8};
  const auto method = SkipSoftmax()
                          .bind(parameters, {.name = "model.layers.3.self_attn",
                                             .class_name = "LlamaAttention",
                                             .num_heads = 4,
                                             .num_key_value_heads = 2,
                                             .head_dim = 16})
                          .active;
  attention::AttentionCall call = attention::random_call({{1}, {1}});
  call.layout.full_lengths = {10, 100000, 20};
  attention::AttentionPlan plan;
  {
    const auto scope = method->activate(plan, call);
    REQUIRE(plan.skip_softmax_lambda);
    CHECK(at::equal(*plan.skip_softmax_lambda,
                    at::tensor({0.9999F, static_cast<float>(400.0 * std::exp(1.5) / 100000.0), 0.9999F})));
  }
  call.phase = Phase::kDecode;
  CHECK(method->activate(plan, call) == nullptr);
  CHECK(method->threshold_counts(Phase::kPrefill) == ThresholdCounts{.calibrated = 3, .out_of_range = 2, .clamped = 2});
  CHECK(method->threshold_counts(Phase::kDecode) == ThresholdCounts{});
}
