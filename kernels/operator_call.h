// One call of the registered operators, between PyTorch's dispatcher (two dozen arguments) and our code (one struct).
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/SymInt.h>

#include <modelopt/kernels/attention.h>

#include <optional>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

namespace modelopt::kernels {

/// The arguments as the dispatcher passes them. Lengths are symbolic while torch.compile traces: use the members below,
/// not those of args, which are set by resolve_lengths().
struct OperatorCall {
  AttentionArgs args;
  c10::SymInt max_input_len;
  std::optional<c10::SymInt> max_input_len_k;

  /// The call's arguments with lengths as plain integers.
  [[nodiscard]] AttentionArgs resolve_lengths() const {
    AttentionArgs resolved = args;
    resolved.max_input_len = max_input_len.guard_int(__FILE__, __LINE__);
    if (max_input_len_k) resolved.max_input_len_k = max_input_len_k->guard_int(__FILE__, __LINE__);
    return resolved;
  }

  [[nodiscard]] static OperatorCall from(const AttentionArgs& args) {
    OperatorCall call{args, args.max_input_len, std::nullopt};
    if (args.max_input_len_k) call.max_input_len_k = *args.max_input_len_k;
    return call;
  }
};

/// (output, logsumexp, stats)
using OperatorResult = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
/// (output, logsumexp, stats, mask)
using OperatorMaskResult = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

template <auto Run, typename Function = std::remove_const_t<decltype(Run)>>
struct OperatorKernel;

/// Wraps Run(const OperatorCall&, leading...) into a function of the registered signature, whose schema has the leading
/// arguments before those of the call.
template <auto Run, typename Result, typename... Leading>
struct OperatorKernel<Run, Result (*)(const OperatorCall&, Leading...)> {
  static Result call(Leading... leading, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const at::Tensor& b_start_loc, const at::Tensor& b_seq_len, c10::SymInt max_input_len,
                     bool is_causal, std::optional<double> softmax_scale,
                     const std::optional<at::Tensor>& b_start_loc_k, const std::optional<at::Tensor>& b_seq_len_k,
                     std::optional<c10::SymInt> max_input_len_k, std::int64_t sparsity_n, std::int64_t sparsity_m,
                     std::int64_t num_sink_tokens, std::int64_t dense_window_size, std::int64_t sliding_window,
                     std::optional<double> skip_softmax_threshold, const std::optional<at::Tensor>& skip_softmax_lambda,
                     std::int64_t skip_softmax_br, std::int64_t skip_softmax_bc, bool collect_stats,
                     std::string_view phase, std::string_view backend) {
    OperatorCall call;
    call.args = AttentionArgs{.q = q,
                              .k = k,
                              .v = v,
                              .b_start_loc = b_start_loc,
                              .b_seq_len = b_seq_len,
                              .is_causal = is_causal,
                              .softmax_scale = softmax_scale,
                              .b_start_loc_k = b_start_loc_k,
                              .b_seq_len_k = b_seq_len_k,
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
                              .phase = std::string(phase),
                              .backend = std::string(backend)};
    call.max_input_len = std::move(max_input_len);
    call.max_input_len_k = std::move(max_input_len_k);
    return Run(call, leading...);
  }
};

/// Calls the registered operator `name` through PyTorch's dispatcher, from the dispatch keys that are active here.
template <typename Result, typename... Leading>
[[nodiscard]] Result call_operator(const char* name, const OperatorCall& call, const Leading&... leading) {
  constexpr Result (*kNone)(const OperatorCall&, const Leading&...) = nullptr;
  using Signature = std::remove_pointer_t<decltype(&OperatorKernel<kNone>::call)>;
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
  const AttentionArgs& a = call.args;
  return op.call(leading..., a.q, a.k, a.v, a.b_start_loc, a.b_seq_len, call.max_input_len, a.is_causal,
                 a.softmax_scale, a.b_start_loc_k, a.b_seq_len_k, call.max_input_len_k, a.sparsity_n, a.sparsity_m,
                 a.num_sink_tokens, a.dense_window_size, a.sliding_window, a.skip_softmax_threshold,
                 a.skip_softmax_lambda, a.skip_softmax_br, a.skip_softmax_bc, a.collect_stats, a.phase, a.backend);
}

}  // namespace modelopt::kernels
