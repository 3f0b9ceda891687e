#include <modelopt/attention/attention_interface.h>

#include <ATen/core/grad_mode.h>

#include <memory>
#include <utility>

#include <modelopt/attention/eager_attention.h>
#include <modelopt/kernels/attention.h>
#include <modelopt/kernels/attention_calibrate.h>

namespace modelopt::attention {
namespace {

AttentionOutput fused_attention(const AttentionPlan& plan, const AttentionCall& call) {
  kernels::AttentionArgs args;
  args.q = call.q;
  args.k = call.k;
  args.v = call.v;
  args.b_start_loc = call.layout.b_start_loc;
  args.b_seq_len = call.layout.b_seq_len;
  args.max_input_len = call.layout.max_input_len;
  args.is_causal = call.is_causal;
  args.softmax_scale = call.softmax_scale;
  args.b_start_loc_k = call.layout.b_start_loc_k;
  args.b_seq_len_k = call.layout.b_seq_len_k;
  args.max_input_len_k = call.layout.max_input_len_k;
  args.sparsity_n = plan.sparsity_n;
  args.sparsity_m = plan.sparsity_m;
  args.num_sink_tokens = plan.num_sink_tokens;
  args.dense_window_size = plan.dense_window_size;
  args.sliding_window = call.sliding_window;
  args.skip_softmax_threshold = plan.skip_softmax_threshold;
  args.skip_softmax_lambda = plan.skip_softmax_lambda;
  args.skip_softmax_br = plan.skip_softmax_br;
  args.skip_softmax_bc = plan.skip_softmax_bc;
  args.collect_stats = plan.collect_stats;
  args.phase = to_string(call.phase);
  args.backend = plan.kernel;
  kernels::AttentionResult result = kernels::attention(args);
  return {.output = std::move(result.output),
          .stats = plan.collect_stats ? std::move(result.stats) : at::Tensor(),
          .trials = {}};
}

// One pass of dense attention decides for all trials; its output is not the call's, and is dropped.
TrialCounts count_trials(const AttentionPlan& plan, const AttentionCall& call) {
  const at::NoGradGuard no_grad;
  kernels::AttentionCalibrateArgs args;
  args.q = call.q;
  args.k = call.k;
  args.v = call.v;
  args.b_start_loc = call.layout.b_start_loc;
  args.b_seq_len = call.layout.b_seq_len;
  args.max_input_len = call.layout.max_input_len;
  args.is_causal = call.is_causal;
  args.softmax_scale = call.softmax_scale;
  args.b_start_loc_k = call.layout.b_start_loc_k;
  args.b_seq_len_k = call.layout.b_seq_len_k;
  args.max_input_len_k = call.layout.max_input_len_k;
  args.threshold_trials = plan.trial_thresholds;
  args.sliding_window = call.sliding_window;
  args.skip_softmax_br = call.phase == Phase::kDecode ? 1 : plan.skip_softmax_br;
  args.skip_softmax_bc = plan.skip_softmax_bc;
  args.backend = plan.kernel;
  return {.thresholds = plan.trial_thresholds, .skipped = kernels::attention_calibrate(args).counts.select(3, 1)};
}

}  // namespace

AttentionOutput attend(const AttentionSlot& slot, const AttentionCall& call) {
  AttentionPlan plan;
  plan.kernel = slot.kernel;
  plan.collect_stats = slot.collect_stats;
  const std::unique_ptr<ActivationScope> scope = slot.method ? slot.method->activate(plan, call) : nullptr;
  if (plan.attention) return {.output = plan.attention(call), .stats = at::Tensor(), .trials = {}};
  AttentionOutput result = plan.softmax ? eager_attention(plan, call) : fused_attention(plan, call);
  if (plan.collect_stats && !plan.trial_thresholds.empty()) result.trials = count_trials(plan, call);
  return result;
}

}  // namespace modelopt::attention
