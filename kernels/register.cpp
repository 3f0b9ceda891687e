// The operators' schemas (the public header says what each argument means) and their CPU and CUDA kernels.
#include <torch/library.h>

#include <array>
#include <string>

#include "kernels/attention_backward.h"
#include "kernels/dispatch.h"
#include "kernels/operator_call.h"

namespace modelopt::kernels {
namespace {

const std::string kArguments =
    "Tensor q, Tensor k, Tensor v, Tensor b_start_loc, Tensor b_seq_len, SymInt max_input_len, "
    "bool is_causal=True, float? softmax_scale=None, "
    "Tensor? b_start_loc_k=None, Tensor? b_seq_len_k=None, SymInt? max_input_len_k=None, *, "
    "int sparsity_n=0, int sparsity_m=4, int num_sink_tokens=0, int dense_window_size=64, int sliding_window=0, "
    "float? skip_softmax_threshold=None, Tensor? skip_softmax_lambda=None, "
    "int skip_softmax_br=128, int skip_softmax_bc=128, "
    "bool collect_stats=False, str phase=\"auto\", str backend=\"auto\") ";

/// The results and the mask (or none, to be decided again) of the forward that ran with the arguments that follow.
const std::string kBackward =
    "attention_backward(Tensor? grad_output, Tensor? grad_logsumexp, Tensor output, Tensor logsumexp, Tensor? mask, "
    "bool[3] wanted, ";

OperatorResult run(const OperatorCall& call) {
  const AttentionResult result = run_attention(call.resolve_lengths(), /*want_mask=*/false).result;
  return {result.output, result.logsumexp, result.stats};
}

OperatorMaskResult run_with_mask(const OperatorCall& call) {
  const auto [result, mask] = run_attention(call.resolve_lengths(), /*want_mask=*/true);
  return {result.output, result.logsumexp, result.stats, mask};
}

OperatorResult run_backward(const OperatorCall& call, const std::optional<at::Tensor>& grad_output,
                            const std::optional<at::Tensor>& grad_logsumexp, const at::Tensor& output,
                            const at::Tensor& logsumexp, const std::optional<at::Tensor>& mask,
                            const std::array<bool, 3>& wanted) {
  const auto [q, k, v] =
      run_attention_backward(call.resolve_lengths(), {grad_output, grad_logsumexp, output, logsumexp, mask, wanted});
  return {q, k, v};
}

// Both devices: which backend runs, or why none does, is the dispatch's answer.
void register_kernels(torch::Library& m) {
  m.impl("attention", TORCH_FN(OperatorKernel<&run>::call));
  m.impl("attention_with_mask", TORCH_FN(OperatorKernel<&run_with_mask>::call));
  m.impl("attention_backward", TORCH_FN(OperatorKernel<&run_backward>::call));
}

TORCH_LIBRARY(modelopt, m) {
  m.def(("attention(" + kArguments + "-> (Tensor output, Tensor logsumexp, Tensor stats)").c_str());
  m.def(("attention_with_mask(" + kArguments + "-> (Tensor output, Tensor logsumexp, Tensor stats, Tensor mask)")
            .c_str());
  m.def((kBackward + kArguments + "-> (Tensor grad_q, Tensor grad_k, Tensor grad_v)").c_str());
  m.def("attention_backends() -> str", [] { return attention_backends(); });
}

TORCH_LIBRARY_IMPL(modelopt, CPU, m) { register_kernels(m); }
TORCH_LIBRARY_IMPL(modelopt, CUDA, m) { register_kernels(m); }

}  // namespace
}  // namespace modelopt::kernels
