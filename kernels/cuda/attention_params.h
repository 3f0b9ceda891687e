// What every CUDA kernel of the operator gets: plain values and device pointers. No lengths are known to the host, only
// their bounds.
#pragma once

#include <cstdint>

#include "kernels/skip.h"  // and selection.h with MODELOPT_HOST_DEVICE

namespace modelopt::kernels::cuda {

/// Elements from one row and from one head to the next; within a head the stride is 1.
struct Strides {
  std::int64_t row = 0;
  std::int64_t head = 0;
};

/// One sequence of the batch as a kernel sees it.
struct SequenceRange {
  int q_start = 0;
  int q_len = 0;
  int k_start = 0;
  int k_len = 0;
  bool valid = true;  ///< false: out of the tensors, over its bound, or lambda not in [0, 1); lengths are 0 then, and
                      ///< its rows become NaN
  bool sparse_nm = false;  ///< N:M applies to it
};

enum class ElementType : int { kFloat16, kBFloat16, kFloat32 };

// What run_decode takes: query rows of a sequence, of all query heads of a key head, and skip_bc.
constexpr int kMostDecodeLength = 16;
constexpr int kMostDecodeRows = 128;
constexpr int kMostDecodeBlockKeys = 1024;

struct AttentionParams {
  const void* q = nullptr;     ///< [total_q, heads, head_dim]
  const void* k = nullptr;     ///< [total_kv, kv_heads, head_dim]
  const void* v = nullptr;     ///< same
  void* output = nullptr;      ///< [total_q, heads, head_dim], contiguous
  float* logsumexp = nullptr;  ///< [total_q, heads], contiguous
  /// uint8 [total_q, heads, mask_bytes] or null: bit j % 8 of byte j / 8 is set iff key j is attended (backend.h)
  std::uint8_t* mask = nullptr;
  std::int64_t mask_bytes = 0;
  /// int64 [batch, heads, 4] or null, zeroed before the launch: blocks visible, blocks skipped, pairs visible, pairs
  /// attended, to be added to
  std::int64_t* stats = nullptr;
  ElementType dtype = ElementType::kBFloat16;
  Strides q_strides, k_strides, v_strides;
  const int* q_start = nullptr;  ///< [batch]
  const int* q_len = nullptr;
  const int* k_start = nullptr;
  const int* k_len = nullptr;
  int batch = 0;
  int total_q = 0;
  int total_kv = 0;
  int max_q_len = 0;  ///< bounds that the caller promised; a longer sequence is invalid
  int max_k_len = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  float scale = 1.0f;  ///< softmax scale, not multiplied by log2(e)
  bool is_causal = true;
  bool single_rows_are_decode = false;  ///< phase "auto": sequences of one query row stay dense
  bool decode = false;                  ///< the phase leaves no sequence to be prefill
  int sparsity_n = 0;                   ///< 0 = off (also in decode)
  int sparsity_m = 4;
  int num_sink_tokens = 0;  ///< counts are at most 2^30, so that sums with positions stay in int
  int dense_window_size = 0;
  int sliding_window = 0;  ///< 0 = no limit
  int skip_br = 128;       ///< query rows and
  int skip_bc = 128;       ///< keys (a multiple of 8) of the blocks that are skipped and that stats counts
  const float* skip_lambda = nullptr;  ///< [batch] or null: skip_log_lambda holds for all sequences
  float skip_log_lambda = kNegativeInfinity<float>;  ///< ln(lambda); -inf: nothing is skipped

  /// Whether some block may be skipped. Without, the dense or N:M kernels run as if there were no skipping.
  [[nodiscard]] MODELOPT_HOST_DEVICE constexpr bool skips() const {
    return skip_lambda != nullptr || skip_log_lambda != kNegativeInfinity<float>;
  }
};

#if defined(__CUDACC__)
/// Reads and checks sequence b.
__device__ inline SequenceRange sequence_range(const AttentionParams& p, int b) {
  SequenceRange s{p.q_start[b], p.q_len[b], p.k_start[b], p.k_len[b]};
  s.valid = s.q_start >= 0 && s.q_len >= 0 && s.k_start >= 0 && s.k_len >= 0 && s.q_len <= p.max_q_len &&
            s.k_len <= p.max_k_len && s.q_len <= p.total_q - s.q_start && s.k_len <= p.total_kv - s.k_start;
  if (p.skip_lambda != nullptr) s.valid = s.valid && p.skip_lambda[b] >= 0.0f && p.skip_lambda[b] < 1.0f;
  if (!s.valid) s.q_len = s.k_len = 0;
  s.sparse_nm = p.sparsity_n > 0 && !(p.single_rows_are_decode && s.q_len == 1);
  return s;
}

/// Whether blocks of sequence b may be skipped: its lambda is above 0.
__device__ inline bool skips_blocks(const AttentionParams& p, int b) {
  return p.skip_lambda != nullptr ? p.skip_lambda[b] > 0.0f : p.skip_log_lambda != kNegativeInfinity<float>;
}

/// ln(lambda) of sequence b; -inf: nothing of it is skipped.
__device__ inline float log_lambda_of(const AttentionParams& p, int b) {
  return p.skip_lambda != nullptr ? skip_log_lambda(p.skip_lambda[b]) : p.skip_log_lambda;
}
#endif

/// Whether key j may be seen by the row at absolute position p (position alone; a score of -inf hides it too).
MODELOPT_HOST_DEVICE constexpr bool visible_by_position(const AttentionParams& params, int p, int j, int k_len) {
  return j < k_len && (!params.is_causal || j <= p) && (params.sliding_window == 0 || p - j < params.sliding_window);
}

/// Whether key j stays dense for the row at absolute position p, whatever selection says.
MODELOPT_HOST_DEVICE constexpr bool dense_by_position(const AttentionParams& params, int p, int j) {
  return j < params.num_sink_tokens || (j <= p && p - j < params.dense_window_size);
}

}  // namespace modelopt::kernels::cuda
