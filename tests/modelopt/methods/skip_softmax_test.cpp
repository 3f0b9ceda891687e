#include <modelopt/methods/skip_softmax.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include <catch2/catch_test_macros.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <modelopt/attention/attention_interface.h>
#include "modelopt/attention/packed_call.h"

using namespace modelopt;
using namespace modelopt::methods;
using attention::AttentionCall;
using attention::AttentionOutput;
using attention::AttentionPlan;
using attention::Phase;
using config::FlashSkipSoftmaxConfig;
using config::MethodBackend;
using config::MethodConfig;
using config::PhaseThresholds;
using config::SkipSoftmaxConfig;

namespace {

const attention::AttentionModuleTraits kModule{.name = "model.layers.3.self_attn",
                                               .class_name = "LlamaAttention",
                                               .num_heads = 4,
                                               .num_key_value_heads = 2,
                                               .head_dim = 16};

std::shared_ptr<const attention::ActiveMethod> active(const SkipSoftmaxConfig& parameters) {
  return SkipSoftmax().bind(parameters, kModule).active;
}

SkipSoftmaxConfig calibrated(double a, double b, double target) {
  config::PhaseCalibration phase{.form = config::CalibrationForm::kExponential,
                                 .exponential = config::ExponentialThreshold{.a = a, .b = b, .fit = std::nullopt},
                                 .table = std::nullopt};
  return {.threshold = config::ThresholdCalibration{.br = 16, .bc = 8, .prefill = phase, .decode = std::nullopt},
          .target_sparsity = {.prefill = target, .decode = std::nullopt},
          .br = 16,
          .bc = 8};
}

// Scores are small integers, exact in every order of summation.
AttentionCall exact_call(const attention::CallShape& shape) {
  AttentionCall call = attention::random_call(shape);
  call.q = at::randint(-2, 3, call.q.sizes(), at::kFloat);
  call.k = at::randint(-2, 3, call.k.sizes(), at::kFloat);
  return call;
}

AttentionOutput attend_with(const MethodConfig& parameters, const AttentionCall& call,
                            const std::string& kernel = "auto") {
  attention::AttentionSlot slot;
  slot.method = std::holds_alternative<FlashSkipSoftmaxConfig>(parameters)
                    ? FlashSkipSoftmax().bind(parameters, kModule).active
                    : SkipSoftmax().bind(parameters, kModule).active;
  slot.kernel = kernel;
  slot.collect_stats = true;
  return attention::attend(slot, call);
}

AttentionPlan plan_of(const attention::ActiveMethod& method, Phase phase, std::vector<std::int64_t> full_lengths) {
  AttentionCall call = attention::random_call({{1}, {1}});
  call.phase = phase;
  call.layout.full_lengths = std::move(full_lengths);
  AttentionPlan plan;
  const auto scope = method.activate(plan, call);
  AttentionPlan within = plan;  // leaving the scope restores `plan`
  return within;
}

std::string message_of(const MethodConfig& parameters, const attention::AttentionModuleTraits& module = kModule) {
  try {
    (void)SkipSoftmax().bind(parameters, module);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::int64_t total(const at::Tensor& stats, std::int64_t column) {
  return stats.select(2, column).sum().item<std::int64_t>();
}

}  // namespace

TEST_CASE("skip-softmax: the operator's parameters are set within the scope, by phase") {
  const auto method = active({.threshold = PhaseThresholds{.prefill = {0.25, 0.5}, .decode = {0.125, 0.75}},
                              .br = 32,
                              .bc = 64,
                              .sparsity_n = 2});
  const AttentionPlan prefill = plan_of(*method, Phase::kPrefill, {});
  CHECK(prefill.skip_softmax_threshold == 0.25);  // the first one; the others are trials
  CHECK(prefill.skip_softmax_br == 32);
  CHECK(prefill.skip_softmax_bc == 64);
  CHECK(prefill.sparsity_n == 2);
  const AttentionPlan decode = plan_of(*method, Phase::kDecode, {});
  CHECK(decode.skip_softmax_threshold == 0.125);
  CHECK(decode.sparsity_n == 0);

  AttentionPlan plan;
  { const auto scope = method->activate(plan, attention::random_call({{1}, {1}})); }
  CHECK_FALSE(plan.skip_softmax_threshold);
  CHECK(plan.skip_softmax_bc == 128);
}

TEST_CASE("skip-softmax: a phase without a threshold, and lambda = 0, leave the plan as it is") {
  const auto prefill_only = active({.threshold = PhaseThresholds{.prefill = {0.25}, .decode = {}}});
  AttentionPlan plan;
  AttentionCall call = attention::random_call({{1}, {1}});
  call.phase = Phase::kDecode;
  CHECK(prefill_only->activate(plan, call) == nullptr);
  CHECK(active({.threshold = 0.0})->activate(plan, call) == nullptr);
  CHECK(active({.threshold = 0.0, .backend = MethodBackend::kEager})->activate(plan, call) == nullptr);
}

TEST_CASE("skip-softmax: a calibrated lambda follows each sequence's full length") {
  const auto method = active(calibrated(4.0, 3.0, 0.5));
  const double scale = 4.0 * std::exp(1.5);
  CHECK(plan_of(*method, Phase::kPrefill, {1000}).skip_softmax_threshold == scale / 1000.0);
  const AttentionPlan batch = plan_of(*method, Phase::kPrefill, {1000, 40});
  CHECK_FALSE(batch.skip_softmax_threshold);
  REQUIRE(batch.skip_softmax_lambda);
  CHECK(at::equal(*batch.skip_softmax_lambda,
                  at::tensor({static_cast<float>(scale / 1000.0), static_cast<float>(scale / 40.0)})));
  CHECK_FALSE(plan_of(*method, Phase::kDecode, {1000}).skip_softmax_threshold);  // not calibrated
  CHECK(method->threshold_counts(Phase::kPrefill) == attention::ThresholdCounts{.calibrated = 3});
  CHECK(method->threshold_counts(Phase::kDecode) == attention::ThresholdCounts{});
}

TEST_CASE("skip-softmax: without full lengths, those of the keys are taken") {
  const auto method = active(calibrated(4.0, 3.0, 0.5));
  AttentionPlan plan;
  const AttentionCall call = attention::random_call({{3}, {50}});
  const auto scope = method->activate(plan, call);
  CHECK(plan.skip_softmax_threshold == 4.0 * std::exp(1.5) / 50.0);
}

TEST_CASE("skip-softmax: eager, fused and the reference skip the same blocks where scores are exact") {
  const c10::NoGradGuard no_grad;
  const std::vector<attention::CallShape> shapes = {
      {{150, 1, 37}, {150, 1, 37}},  // whole prompts, partial last blocks
      {{16, 5, 1}, {96, 45, 33}},    // chunks, at and inside a block
      {{20}, {12}},                  // rows without keys
  };
  std::int64_t skipped = 0, visible = 0;
  for (const attention::CallShape& shape : shapes) {
    for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
      for (const std::int64_t sparsity_n : {0, 2}) {
        AttentionCall call = exact_call(shape);
        call.phase = phase;
        call.sliding_window = sparsity_n == 0 ? 0 : 61;
        const SkipSoftmaxConfig parameters{
            .threshold = 0.3, .br = 16, .bc = 8, .sparsity_n = sparsity_n, .dense_window_size = 3};
        CAPTURE(shape.queries, to_string(phase), sparsity_n);
        const auto fused = attend_with(parameters, call, "cpu");
        const auto reference = attend_with(parameters, call, "reference");
        FlashSkipSoftmaxConfig flash{parameters};
        flash.parameters.backend = MethodBackend::kEager;
        const auto eager = attend_with(flash, call);
        CHECK(at::equal(fused.stats, reference.stats));
        CHECK(at::equal(eager.stats, reference.stats));
        CHECK(at::allclose(fused.output, reference.output, 1e-5, 1e-6));
        CHECK(at::allclose(eager.output, reference.output, 1e-5, 1e-6));
        visible += total(fused.stats, 0);
        skipped += total(fused.stats, 1);
        if (phase == Phase::kPrefill && sparsity_n > 0 && shape.keys.front() > 16)
          CHECK(total(fused.stats, 3) <
                total(attend_with(SkipSoftmaxConfig{.threshold = 0.3, .br = 16, .bc = 8}, call).stats, 3));
      }
    }
  }
  CHECK(skipped > 0);
  CHECK(skipped < visible);
}

TEST_CASE("skip-softmax: eager rows that see NaN or +inf are NaN though the block is skipped") {
  const c10::NoGradGuard no_grad;
  AttentionCall call = exact_call({{40}, {40}});
  call.k[9].fill_(std::numeric_limits<float>::quiet_NaN());
  const SkipSoftmaxConfig parameters{.threshold = 0.9, .br = 8, .bc = 8, .backend = MethodBackend::kEager};
  const auto eager = attend_with(parameters, call);
  SkipSoftmaxConfig fused = parameters;
  fused.backend = MethodBackend::kFused;
  const auto reference = attend_with(fused, call, "reference");
  CHECK(at::equal(eager.output.isnan(), reference.output.isnan()));
  CHECK(eager.output.narrow(0, 9, 31).isnan().all().item<bool>());
  CHECK_FALSE(eager.output.narrow(0, 0, 9).isnan().any().item<bool>());
}

TEST_CASE("skip-softmax: statistics change no bit, and a rule can ask for them") {
  const c10::NoGradGuard no_grad;
  const AttentionCall call = attention::random_call({{90}, {90}});
  for (const MethodBackend backend : {MethodBackend::kFused, MethodBackend::kEager}) {
    SkipSoftmaxConfig parameters{.threshold = 0.5, .br = 16, .bc = 8, .backend = backend};
    attention::AttentionSlot slot;
    slot.method = active(parameters);
    const AttentionOutput without = attention::attend(slot, call);
    CHECK_FALSE(without.stats.defined());
    parameters.collect_stats = true;
    slot.method = active(parameters);
    const AttentionOutput with = attention::attend(slot, call);
    REQUIRE(with.stats.defined());
    CHECK(total(with.stats, 1) > 0);
    CHECK(total(with.stats, 1) < total(with.stats, 0));
    CHECK(at::equal(with.output, without.output));
  }
  // lambda = 0: dense, counted in blocks of the rule
  attention::AttentionSlot slot;
  slot.method = active({.threshold = 0.0, .br = 16, .bc = 8, .collect_stats = true});
  const AttentionOutput dense = attention::attend(slot, call);
  CHECK(at::equal(dense.output, attention::attend({}, call).output));
  CHECK(total(dense.stats, 0) > 2 * 4 * 6);
  CHECK(total(dense.stats, 1) == 0);
}

TEST_CASE("skip-softmax: with the statistics, each trial counts what it would skip if it were applied") {
  const c10::NoGradGuard no_grad;
  const std::vector<double> thresholds = {0.05, 0.3, 0.9};
  for (const MethodBackend backend : {MethodBackend::kFused, MethodBackend::kEager}) {
    for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
      AttentionCall call = exact_call({{60, 5, 1}, {60, 45, 33}});
      call.phase = phase;
      call.sliding_window = 50;
      const SkipSoftmaxConfig with_trials{.threshold = PhaseThresholds{.prefill = thresholds, .decode = thresholds},
                                          .br = 16,
                                          .bc = 8,
                                          .sparsity_n = 2,
                                          .backend = backend};
      SkipSoftmaxConfig alone = with_trials;
      alone.threshold = thresholds[0];
      CAPTURE(to_string(backend), to_string(phase));
      const AttentionOutput output = attend_with(with_trials, call);
      const AttentionOutput applied = attend_with(alone, call);
      CHECK(at::equal(output.output, applied.output));
      CHECK(at::equal(output.stats, applied.stats));
      CHECK(applied.trials.thresholds.empty());
      CHECK_FALSE(applied.trials.skipped.defined());
      CHECK(output.trials.thresholds == std::vector{0.3, 0.9});
      REQUIRE(output.trials.skipped.sizes() == at::IntArrayRef{3, 4, 2});
      for (std::size_t trial = 0; trial < 2; ++trial) {
        alone.threshold = thresholds[trial + 1];
        const at::Tensor stats = attend_with(alone, call).stats;
        CHECK(at::equal(output.trials.skipped.select(2, static_cast<std::int64_t>(trial)), stats.select(2, 1)));
        CHECK(total(stats, 1) > total(applied.stats, 1));
        CHECK(total(stats, 1) < total(stats, 0));
      }
    }
  }
}

TEST_CASE("skip-softmax: trials are counted where the first threshold skips nothing, and nowhere without statistics") {
  const c10::NoGradGuard no_grad;
  const AttentionCall call = exact_call({{60}, {60}});
  const SkipSoftmaxConfig parameters{
      .threshold = PhaseThresholds{.prefill = {0.0, 0.9}, .decode = {}}, .br = 16, .bc = 8};
  const AttentionOutput dense = attend_with(parameters, call);
  CHECK(at::equal(dense.output, attention::attend({}, call).output));
  CHECK(total(dense.stats, 1) == 0);
  REQUIRE(dense.trials.thresholds == std::vector{0.9});
  CHECK(dense.trials.skipped.sum().item<std::int64_t>() > 0);
  CHECK(dense.trials.skipped.sum().item<std::int64_t>() < total(dense.stats, 0));

  AttentionCall decode = call;
  decode.phase = Phase::kDecode;
  CHECK(attend_with(parameters, decode).trials.thresholds.empty());
  attention::AttentionSlot slot;
  slot.method = active(parameters);
  CHECK(attention::attend(slot, call).trials.thresholds.empty());
}

TEST_CASE("skip-softmax: a bound method names itself, its parameters and what it asks of the operator") {
  const BoundMethod fused = SkipSoftmax().bind(SkipSoftmaxConfig{.collect_stats = true, .sparsity_n = 2}, kModule);
  CHECK(fused.active->name() == "skip_softmax");
  CHECK(fused.active->parameters_json().starts_with(R"({"skip_softmax_threshold":0.1,"br":128,"bc":128,)"));
  REQUIRE(fused.operator_traits);
  CHECK(fused.operator_traits->skip_softmax);
  CHECK(fused.operator_traits->sparse_nm);
  CHECK(fused.operator_traits->collect_stats);
  const BoundMethod eager = FlashSkipSoftmax().bind(FlashSkipSoftmaxConfig{}, kModule);
  CHECK(eager.active->name() == "flash_skip_softmax");
  CHECK_FALSE(eager.operator_traits);
  CHECK_FALSE(SkipSoftmax().bind(SkipSoftmaxConfig{.threshold = 0.0}, kModule).operator_traits->skip_softmax);
}

TEST_CASE("skip-softmax: what cannot be bound") {
  CHECK(message_of(SkipSoftmaxConfig{.threshold = 1.5, .bc = 9}) ==
        "skip_softmax: skip_softmax_threshold: 1.5, expected a number from 0 on and less than 1\n"
        "skip_softmax: bc: 9, expected a positive multiple of 8");
  CHECK(message_of(SkipSoftmaxConfig{.target_sparsity = {.prefill = 0.5, .decode = std::nullopt}}) ==
        "skip_softmax: target_sparsity needs calibrated thresholds, expected what `modelopt calibrate` has written");
  CHECK(message_of(SkipSoftmaxConfig{.is_causal = false}) ==
        "skip_softmax: is_causal is false, expected true as the attention of LlamaAttention is");
  CHECK(message_of(FlashSkipSoftmaxConfig{}) == "skip_softmax: parameters of flash_skip_softmax, expected its own");
}
