// Tiles in which not every key is attended alike: positions, selection of any N:M, and the records of what is attended.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_params.h"
#include "kernels/cuda/sm80/block_problem.cuh"
#include "kernels/cuda/sm80/forward_params.h"
#include "kernels/cuda/sm80/key_range.h"
#include "kernels/selection.h"

namespace modelopt::kernels::cuda::sm80 {

/// The kept keys of eight, all groups of the thread at once.
__device__ inline std::uint32_t kept_keys(const float (&x)[kKeysPerThread], std::uint32_t visible, int n, int m) {
  if (m == 8) return keep_n_of_m<8>(x, visible, n);
  const float low[4] = {x[0], x[1], x[2], x[3]};
  const float high[4] = {x[4], x[5], x[6], x[7]};
  return keep_n_of_m<4>(low, visible & 0xFu, n) | keep_n_of_m<4>(high, visible >> 4, n) << 4;
}

/// Those of the keys whose score is not -inf.
__device__ inline std::uint32_t keys_above_negative_infinity(const float (&x)[kKeysPerThread]) {
  std::uint32_t bits = 0;
#pragma unroll
  for (int i = 0; i < kKeysPerThread; ++i) {
    bits |= static_cast<std::uint32_t>(x[i] != kNegativeInfinity<float>) << i;
  }
  return bits;
}

/// Writes the attended mask and counts the statistics, if the caller asked for them. Costs nothing elsewhere: it is
/// used by the kernels with kGeneral only.
class Recorder {
 public:
  __device__ Recorder(const ForwardParams& params, const BlockProblem& block) : params_(params), block_(block) {}

  /// Whether anything is to be recorded.
  [[nodiscard]] __device__ bool active() const {
    return params_.attention.mask != nullptr || params_.attention.stats != nullptr;
  }

  /// Zeroes the mask of query rows [begin, end) of the sequence; the whole block calls it, a barrier follows.
  __device__ void clear_mask(int begin, int end) const {
    const AttentionParams& p = params_.attention;
    if (p.mask == nullptr) return;
    for (int i = begin; i < end; ++i) {
      std::uint8_t* row = mask_row(i);
      for (std::int64_t byte = threadIdx.x; byte < p.mask_bytes; byte += blockDim.x) row[byte] = 0;
    }
  }

  /// The row at position p sees `visible` of the eight keys from first_key on, a multiple of 8. With skip-softmax the
  /// vote kernel records it, which sees all keys.
  __device__ void record_visible(int p, int first_key, std::uint32_t visible) {
    if (params_.attention.stats == nullptr || visible == 0 || !is_row(p)) return;
    pairs_visible_ += __popc(visible);
    mark_visible_block(params_.visible_blocks, params_.attention, block_.batch, block_.head, block_.offset, p,
                       first_key);
  }

  /// The row attends to `attended` of the eight keys.
  __device__ void record_attended(int p, int first_key, std::uint32_t attended) {
    if (attended == 0 || !is_row(p)) return;
    if (params_.attention.mask != nullptr)
      mask_row(p - block_.offset)[first_key / 8] = static_cast<std::uint8_t>(attended);
    pairs_attended_ += __popc(attended);
  }

  /// Adds this warp's counts to the statistics; all lanes call it.
  __device__ void finish() const {
    const AttentionParams& p = params_.attention;
    if (p.stats == nullptr) return;
    unsigned long long visible = pairs_visible_, attended = pairs_attended_;
    for (int step = 16; step > 0; step /= 2) {
      visible += __shfl_xor_sync(0xFFFFFFFFu, visible, step);
      attended += __shfl_xor_sync(0xFFFFFFFFu, attended, step);
    }
    if (threadIdx.x % 32 != 0) return;
    auto* stats = reinterpret_cast<unsigned long long*>(p.stats) +
                  (static_cast<std::int64_t>(block_.batch) * p.heads + block_.head) * 4;
    atomicAdd(stats + 2, visible);
    atomicAdd(stats + 3, attended);
  }

 private:
  [[nodiscard]] __device__ bool is_row(int p) const {
    return p >= block_.offset && p < block_.offset + block_.sequence.q_len;
  }

  [[nodiscard]] __device__ std::uint8_t* mask_row(int i) const {
    const AttentionParams& p = params_.attention;
    return p.mask + (static_cast<std::int64_t>(block_.sequence.q_start + i) * p.heads + block_.head) * p.mask_bytes;
  }

  const ForwardParams& params_;
  const BlockProblem& block_;
  std::uint32_t pairs_visible_ = 0, pairs_attended_ = 0;  ///< of this thread: fewer than two rows of 2^30 keys have
};

}  // namespace modelopt::kernels::cuda::sm80
