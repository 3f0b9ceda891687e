#include <modelopt/calibration/calibrating_method.h>

#include <ATen/ops/sum.h>

#include <string>
#include <utility>

#include <modelopt/error.h>
#include <modelopt/kernels/attention_calibrate.h>
#include <modelopt/methods/plan_scope.h>

namespace modelopt::calibration {
namespace {

class ActiveCalibration final : public attention::ActiveMethod {
 public:
  ActiveCalibration(std::string name, const config::SkipSoftmaxConfig& parameters,
                    std::shared_ptr<CountRecorder> recorder)
      : name_(std::move(name)),
        br_(parameters.br),
        bc_(parameters.bc),
        recorder_(std::move(recorder)),
        module_(recorder_->add_module()) {}

  [[nodiscard]] std::string name() const override { return name_; }
  [[nodiscard]] std::string parameters_json() const override { return "{}"; }

  [[nodiscard]] std::unique_ptr<attention::ActivationScope> activate(attention::AttentionPlan& plan,
                                                                     const attention::AttentionCall&) const override {
    auto scope = std::make_unique<methods::PlanScope>(plan);
    plan.attention = [this, kernel = plan.kernel](const attention::AttentionCall& call) {
      const auto& layout = call.layout;
      const kernels::AttentionCalibrateResult result =
          kernels::attention_calibrate({.q = call.q,
                                        .k = call.k,
                                        .v = call.v,
                                        .b_start_loc = layout.b_start_loc,
                                        .b_seq_len = layout.b_seq_len,
                                        .max_input_len = layout.max_input_len,
                                        .is_causal = call.is_causal,
                                        .softmax_scale = call.softmax_scale,
                                        .b_start_loc_k = layout.b_start_loc_k,
                                        .b_seq_len_k = layout.b_seq_len_k,
                                        .max_input_len_k = layout.max_input_len_k,
                                        .threshold_trials = recorder_->thresholds(),
                                        .sliding_window = call.sliding_window,
                                        .skip_softmax_br = br_,
                                        .skip_softmax_bc = bc_,
                                        .backend = kernel});
      recorder_->record(module_, call.phase, result.counts);
      return result.output;
    };
    return scope;
  }

 private:
  std::string name_;
  std::int64_t br_, bc_;
  std::shared_ptr<CountRecorder> recorder_;
  std::size_t module_;
};

}  // namespace

std::size_t CountRecorder::add_module() {
  for (BlockCounts* counts : {&counts_.prefill, &counts_.decode}) {
    counts->visible.push_back(0);
    counts->skipped.emplace_back(thresholds_.size(), 0);
  }
  return counts_.prefill.visible.size() - 1;
}

void CountRecorder::record(std::size_t module, attention::Phase phase, const at::Tensor& counts) {
  const at::Tensor sums = counts.flatten(0, 1).sum(0).to(at::kCPU).contiguous();  // [T, 2]
  const auto* values = sums.const_data_ptr<std::int64_t>();
  BlockCounts& target = phase == attention::Phase::kPrefill ? counts_.prefill : counts_.decode;
  target.visible[module] += values[0];
  for (std::size_t t = 0; t < thresholds_.size(); ++t) target.skipped[module][t] += values[2 * t + 1];
}

PromptCounts CountRecorder::take() {
  const BlockCounts zeros(counts_.prefill.visible.size(), thresholds_.size());
  return std::exchange(counts_, {zeros, zeros});
}

methods::BoundMethod CalibratingMethod::bind(const config::MethodConfig& parameters,
                                             const attention::AttentionModuleTraits&) const {
  const config::SkipSoftmaxConfig* skipping = config::skip_softmax_parameters(parameters);
  MODELOPT_CHECK(skipping != nullptr, ConfigError, name_, ": has no blocks, expected a skip-softmax method");
  return {.active = std::make_shared<ActiveCalibration>(std::string(name_), *skipping, recorder_),
          .operator_traits = std::nullopt};
}

}  // namespace modelopt::calibration
