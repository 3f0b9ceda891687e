// What the backward kernels of every CUDA backend get.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/attention_params.h"

namespace modelopt::kernels::cuda {

/// The gradients of a forward, or of some of its heads: pointers then begin at the first of them. In the notation of
/// kernels/backend.h, with P = exp(S - L) and D = rowsum(do o) - dL:
///
///     dS = P (do V^T - D)     dQ = scale dS K     dK = scale dS^T Q     dV = P^T do
struct BackwardParams {
  /// As the forward had it. `mask` has rows of a multiple of kMaskAlignment bytes, zero beyond a sequence's keys, and
  /// begins at such a multiple; null: position alone decides. `output` and `logsumexp` are read, `stats` is null.
  AttentionParams attention;
  const void* grad_output = nullptr;      ///< like q
  const float* grad_logsumexp = nullptr;  ///< [total_q, heads] or null: zero
  void* grad_q = nullptr;                 ///< like q, or null: not wanted
  void* grad_k = nullptr;                 ///< like k
  void* grad_v = nullptr;
  /// fp32, like k: what dK and dV of sequences that may share keys are added to. Null: each key row has one sequence,
  /// and grad_k and grad_v are written.
  float* sum_k = nullptr;
  float* sum_v = nullptr;
  /// {L, D} of each query row, [heads, total_q]: what the kernels read of the forward's rows. L is in units
  /// of exponent_unit(), and +inf for rows that attend nothing, so that their weights are 0.
  float2* row_stats = nullptr;
  Strides query_rows;                 ///< of output, grad_output and grad_q
  Strides key_rows;                   ///< of grad_k, grad_v, sum_k and sum_v
  std::int64_t logsumexp_stride = 0;  ///< elements from one row of logsumexp and grad_logsumexp to the next
};

constexpr std::int64_t kMaskAlignment = 16;

/// exp(x) = exp2(x log2(e)) in the kernels of 16-bit elements, whose L is multiplied by log2(e). fp32 takes exp(x).
constexpr float exponent_unit(ElementType dtype) { return dtype == ElementType::kFloat32 ? 1.0f : 1.4426950408889634f; }

/// Columns [begin, end) of a tile's streamed side.
struct ColumnRange {
  int begin, end;
};

/// The keys that some query row of [first, last] (of its sequence) sees by position.
MODELOPT_HOST_DEVICE constexpr ColumnRange keys_of_queries(const AttentionParams& p, int q_len, int k_len, int first,
                                                           int last) {
  const int offset = k_len - q_len;
  const int begin = p.sliding_window > 0 ? first + offset - p.sliding_window + 1 : 0;
  const int end = p.is_causal && last + offset + 1 < k_len ? last + offset + 1 : k_len;
  return {begin < 0 ? 0 : begin, end};
}

/// The query rows that see some key of [first, last] by position.
MODELOPT_HOST_DEVICE constexpr ColumnRange queries_of_keys(const AttentionParams& p, int q_len, int k_len, int first,
                                                           int last) {
  const int offset = k_len - q_len;
  const int begin = p.is_causal ? first - offset : 0;
  const bool limited = p.sliding_window > 0 && p.sliding_window < k_len - last;
  return {begin < 0 ? 0 : begin, limited ? last - offset + p.sliding_window : q_len};
}

}  // namespace modelopt::kernels::cuda
