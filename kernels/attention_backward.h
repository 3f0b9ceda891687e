// Gradients of attention over the attended set: the mask is the one that the forward used, and a constant.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <tuple>

namespace modelopt::kernels {

/// The registered operator attention_backward. Recomputes the softmax from q, k, v in fp64 under `mask` (as returned by
/// attention_with_mask), a few query rows at a time, so that memory does not grow with Lq * Lk.
///
/// grad_output [total_q, Hq, D] and grad_logsumexp [total_q, Hq]: either may be missing (zero). `logsumexp` is the
/// forward's: rows where it is NaN have NaN gradients. `grad_mask` says which of grad_q, grad_k, grad_v are wanted; the
/// others are undefined. Rows of no sequence and rows that attend nothing give zero gradients.
/// CPU only (Unsupported otherwise). Throws InvalidArgument for what the forward would refuse and for shapes that do
/// not belong together.
[[nodiscard]] std::tuple<at::Tensor, at::Tensor, at::Tensor> attention_backward(
    const std::optional<at::Tensor>& grad_output, const std::optional<at::Tensor>& grad_logsumexp, const at::Tensor& q,
    const at::Tensor& k, const at::Tensor& v, const at::Tensor& logsumexp, const at::Tensor& mask,
    const at::Tensor& b_start_loc, const at::Tensor& b_seq_len, const std::optional<at::Tensor>& b_start_loc_k,
    const std::optional<at::Tensor>& b_seq_len_k, std::optional<double> softmax_scale, std::array<bool, 3> grad_mask);

}  // namespace modelopt::kernels
