#include <modelopt/methods/skip_softmax.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include <modelopt/config/method_descriptor.h>
#include <modelopt/config/parse.h>
#include <modelopt/methods/calibrated_threshold.h>
#include <modelopt/methods/eager_softmax.h>
#include <modelopt/methods/nm_softmax.h>
#include <modelopt/methods/plan_scope.h>
#include <modelopt/methods/skip_blocks.h>

namespace modelopt::methods {
namespace {

using attention::AttentionCall;
using attention::AttentionPlan;
using attention::Phase;
using config::MethodBackend;
using config::SkipSoftmaxConfig;

/// λ of each sequence of a call; one entry holds for all.
using Lambdas = std::vector<double>;

bool skips(const Lambdas& lambdas) {
  return std::any_of(lambdas.begin(), lambdas.end(), [](double lambda) { return lambda > 0.0; });
}

std::vector<std::int64_t> full_lengths(const AttentionCall& call) {
  if (!call.layout.full_lengths.empty()) return call.layout.full_lengths;
  const at::Tensor lengths =
      call.layout.b_seq_len_k.value_or(call.layout.b_seq_len).to(at::kCPU, at::kLong).contiguous();
  const auto* begin = lengths.const_data_ptr<std::int64_t>();
  return {begin, begin + lengths.numel()};
}

config::SparseSoftmaxConfig selection(const SkipSoftmaxConfig& parameters) {
  return {.sparsity_n = parameters.sparsity_n,
          .sparsity_m = parameters.sparsity_m,
          .num_sink_tokens = parameters.num_sink_tokens,
          .dense_window_size = parameters.dense_window_size};
}

class ActiveSkipSoftmax final : public attention::ActiveMethod {
 public:
  ActiveSkipSoftmax(config::MethodConfig config, const std::string& module)
      : config_(std::move(config)), parameters_(*config::skip_softmax_parameters(std::as_const(config_))) {
    const auto* calibration = std::get_if<config::ThresholdCalibration>(&parameters_.threshold);
    if (calibration == nullptr) return;
    const auto emplace = [&module](std::optional<CalibratedThreshold>& threshold, Phase phase, const auto& of_phase,
                                   const std::optional<double>& target) {
      if (of_phase && target.value_or(0.0) > 0.0) threshold.emplace(module, phase, *of_phase, *target);
    };
    emplace(prefill_, Phase::kPrefill, calibration->prefill, parameters_.target_sparsity.prefill);
    emplace(decode_, Phase::kDecode, calibration->decode, parameters_.target_sparsity.decode);
  }

  [[nodiscard]] std::string name() const override { return std::string(config::descriptor_of(config_).name); }

  [[nodiscard]] std::string parameters_json() const override {
    nlohmann::ordered_json json = config::to_json(config_);
    json.erase("method");
    return json.dump();
  }

  [[nodiscard]] attention::ThresholdCounts threshold_counts(Phase phase) const override {
    const auto& threshold = calibrated(phase);
    return threshold ? threshold->counts() : attention::ThresholdCounts{};
  }

  [[nodiscard]] std::unique_ptr<attention::ActivationScope> activate(AttentionPlan& plan,
                                                                     const AttentionCall& call) const override {
    const Lambdas lambdas = lambdas_of(call);
    const bool selects = call.phase == Phase::kPrefill && parameters_.sparsity_n > 0;
    if (!skips(lambdas) && !selects && !parameters_.collect_stats && !plan.collect_stats) return nullptr;
    auto scope = std::make_unique<PlanScope>(plan);
    plan.collect_stats |= parameters_.collect_stats;
    plan.skip_softmax_br = parameters_.br;
    plan.skip_softmax_bc = parameters_.bc;
    plan.trial_thresholds = trials_of(call.phase);
    if (!skips(lambdas) && !selects) return scope;  // dense, and counted in blocks of this size
    if (parameters_.backend == MethodBackend::kEager) {
      plan_eager(plan, call.phase, lambdas, selects);
    } else {
      plan_fused(plan, call, lambdas, selects);
    }
    return scope;
  }

 private:
  void plan_fused(AttentionPlan& plan, const AttentionCall& call, const Lambdas& lambdas, bool selects) const {
    if (selects) select_in_operator(plan, selection(parameters_));
    if (lambdas.size() == 1) {
      plan.skip_softmax_threshold = lambdas.front();
    } else {
      plan.skip_softmax_lambda = at::tensor(lambdas, at::kFloat).to(call.q.device());
    }
  }

  void plan_eager(AttentionPlan& plan, Phase phase, const Lambdas& lambdas, bool selects) const {
    if (phase == Phase::kDecode) plan.skip_softmax_br = 1;
    const BlockSize size{.br = plan.skip_softmax_br, .bc = plan.skip_softmax_bc};
    plan.softmax = [=, nm = selection(parameters_)](const attention::EagerScores& scores) {
      const at::Tensor remaining =
          keys_not_skipped(scores, lambdas.size() == 1 ? lambdas.front() : lambdas.at(scores.sequence), size);
      return softmax_over(scores, selects ? remaining & selected_keys(scores, nm) : remaining);
    };
  }

  Lambdas lambdas_of(const AttentionCall& call) const {
    const bool prefill = call.phase == Phase::kPrefill;
    if (const auto* one = std::get_if<double>(&parameters_.threshold)) return {*one};
    if (const auto* given = std::get_if<config::PhaseThresholds>(&parameters_.threshold)) {
      const std::vector<double>& thresholds = prefill ? given->prefill : given->decode;
      return {thresholds.empty() ? 0.0 : thresholds.front()};
    }
    const auto& threshold = calibrated(call.phase);
    if (!threshold) return {0.0};
    Lambdas lambdas;
    for (const std::int64_t length : full_lengths(call)) lambdas.push_back(threshold->at(length));
    return lambdas.empty() ? Lambdas{0.0} : lambdas;
  }

  // Those behind the first, which is applied.
  std::vector<double> trials_of(Phase phase) const {
    const auto* given = std::get_if<config::PhaseThresholds>(&parameters_.threshold);
    if (given == nullptr) return {};
    const std::vector<double>& thresholds = phase == Phase::kPrefill ? given->prefill : given->decode;
    if (thresholds.empty()) return {};
    return {thresholds.begin() + 1, thresholds.end()};
  }

  const std::optional<CalibratedThreshold>& calibrated(Phase phase) const {
    return phase == Phase::kPrefill ? prefill_ : decode_;
  }

  config::MethodConfig config_;
  const SkipSoftmaxConfig& parameters_;                  // in config_
  std::optional<CalibratedThreshold> prefill_, decode_;  // of a calibrated phase that has a target
};

/// Whether some call of the module may skip: a threshold that is not 0, or a calibrated phase with a target.
bool may_skip(const SkipSoftmaxConfig& parameters) {
  if (const auto* one = std::get_if<double>(&parameters.threshold)) return *one > 0.0;
  if (const auto* given = std::get_if<config::PhaseThresholds>(&parameters.threshold))
    return (!given->prefill.empty() && given->prefill.front() > 0.0) ||
           (!given->decode.empty() && given->decode.front() > 0.0);
  return parameters.target_sparsity.prefill.value_or(0.0) > 0.0 ||
         parameters.target_sparsity.decode.value_or(0.0) > 0.0;
}

void check(const config::MethodConfig& config, const SkipSoftmaxConfig& parameters,
           const attention::AttentionModuleTraits& module) {
  config::check(config);
  const std::string_view name = config::descriptor_of(config).name;
  const config::PhaseTargets& targets = parameters.target_sparsity;
  MODELOPT_CHECK(std::holds_alternative<config::ThresholdCalibration>(parameters.threshold) ||
                     (!targets.prefill && !targets.decode),
                 ConfigError, name,
                 ": target_sparsity needs calibrated thresholds, expected what `modelopt calibrate` has written");
  MODELOPT_CHECK(parameters.is_causal == module.is_causal, Unsupported, name, ": is_causal is ",
                 parameters.is_causal ? "true" : "false", ", expected ", module.is_causal ? "true" : "false",
                 " as the attention of ", module.class_name, " is");
}

BoundMethod bind_checked(const config::MethodConfig& config, const attention::AttentionModuleTraits& module) {
  const SkipSoftmaxConfig& parameters = *config::skip_softmax_parameters(config);
  check(config, parameters, module);
  BoundMethod bound{.active = std::make_shared<ActiveSkipSoftmax>(config, module.name),
                    .operator_traits = std::nullopt};
  const bool skipping = may_skip(parameters), selecting = parameters.sparsity_n > 0;
  if (parameters.backend == MethodBackend::kFused || (!skipping && !selecting)) {
    bound.operator_traits = kernels::AttentionTraits{.device = module.device.type(),
                                                     .dtype = module.dtype,
                                                     .head_dim = module.head_dim,
                                                     .sparse_nm = selecting,
                                                     .skip_softmax = skipping,
                                                     .skip_br = parameters.br,
                                                     .skip_bc = parameters.bc,
                                                     .heads = module.num_heads,
                                                     .kv_heads = module.num_key_value_heads,
                                                     .collect_stats = parameters.collect_stats,
                                                     .device_index = module.device.index()};
  }
  return bound;
}

void check_type(bool is_own, std::string_view name, const config::MethodConfig& parameters) {
  MODELOPT_CHECK(is_own, ConfigError, name, ": parameters of ", config::descriptor_of(parameters).name,
                 ", expected its own");
}

}  // namespace

std::string_view SkipSoftmax::name() const { return config::descriptor_of(SkipSoftmaxConfig{}).name; }

BoundMethod SkipSoftmax::bind(const config::MethodConfig& parameters,
                              const attention::AttentionModuleTraits& module) const {
  check_type(std::holds_alternative<SkipSoftmaxConfig>(parameters), name(), parameters);
  return bind_checked(parameters, module);
}

std::string_view FlashSkipSoftmax::name() const { return config::descriptor_of(config::FlashSkipSoftmaxConfig{}).name; }

BoundMethod FlashSkipSoftmax::bind(const config::MethodConfig& parameters,
                                   const attention::AttentionModuleTraits& module) const {
  check_type(std::holds_alternative<config::FlashSkipSoftmaxConfig>(parameters), name(), parameters);
  return bind_checked(parameters, module);
}

}  // namespace modelopt::methods
