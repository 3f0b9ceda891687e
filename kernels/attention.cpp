// The C++ entries: through PyTorch's dispatcher, so that autograd and every dispatch key work as from Python.
#include <modelopt/kernels/attention.h>

#include "kernels/operator_call.h"
#include "kernels/validate.h"

namespace modelopt::kernels {

AttentionResult attention(const AttentionArgs& args) {
  validate_defined(args);
  auto [output, logsumexp, stats] = call_operator<OperatorResult>("modelopt::attention", OperatorCall::from(args));
  return {output, logsumexp, stats};
}

AttentionMaskResult attention_with_mask(const AttentionArgs& args) {
  validate_defined(args);
  auto [output, logsumexp, stats, mask] =
      call_operator<OperatorMaskResult>("modelopt::attention_with_mask", OperatorCall::from(args));
  return {{output, logsumexp, stats}, mask};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> attention(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& b_start_loc,
    const at::Tensor& b_seq_len, std::int64_t max_input_len, bool is_causal, std::optional<double> softmax_scale,
    const std::optional<at::Tensor>& b_start_loc_k, const std::optional<at::Tensor>& b_seq_len_k,
    std::optional<std::int64_t> max_input_len_k, std::int64_t sparsity_n, std::int64_t sparsity_m,
    std::int64_t num_sink_tokens, std::int64_t dense_window_size, std::int64_t sliding_window,
    std::optional<double> skip_softmax_threshold, const std::optional<at::Tensor>& skip_softmax_lambda,
    std::int64_t skip_softmax_br, std::int64_t skip_softmax_bc, bool collect_stats, const std::string& phase,
    const std::string& backend) {
  const AttentionResult result = attention(AttentionArgs{.q = q,
                                                         .k = k,
                                                         .v = v,
                                                         .b_start_loc = b_start_loc,
                                                         .b_seq_len = b_seq_len,
                                                         .max_input_len = max_input_len,
                                                         .is_causal = is_causal,
                                                         .softmax_scale = softmax_scale,
                                                         .b_start_loc_k = b_start_loc_k,
                                                         .b_seq_len_k = b_seq_len_k,
                                                         .max_input_len_k = max_input_len_k,
                                                         .sparsity_n = sparsity_n,
                                                         .sparsity_m = sparsity_m,
                                                         .num_sink_tokens = num_sink_tokens,
                                                         .dense_window_size = dense_window_size,
                                                         .sliding_window = sliding_window,
                                                         .skip_softmax_threshold = skip_softmax_threshold,
                                                         .skip_softmax_lambda = skip_softmax_lambda,
                                                         .skip_softmax_br = skip_softmax_br,
                                                         .skip_softmax_bc = skip_softmax_bc,
                                                         .collect_stats = collect_stats,
                                                         .phase = phase,
                                                         .backend = backend});
  return {result.output, result.logsumexp, result.stats};
}

}  // namespace modelopt::kernels
