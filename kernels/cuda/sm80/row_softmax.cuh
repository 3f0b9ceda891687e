// Online softmax over the rows of a warp, in the layout of the accumulators of mma.m16n8k16.
#pragma once

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/sm80/mma_sync.cuh"
#include "kernels/cuda/sm80/select_2of4.h"
#include "kernels/selection.h"

namespace modelopt::kernels::cuda::sm80 {

/// Reference and sum of the thread's rows: row l / 4 (half 0) and l / 4 + 8 (half 1) of each 16-row block.
///
/// The reference is a maximum of the row's visible scores that may lag behind: it is raised only when a tile's maximum
/// is more than `slack` above it, so that weights reach 2^8 at most and most tiles need not rescale the output. A NaN
/// score raises it to NaN, which stays.
///
/// A tile that changes nothing changes no bit: a row that sees none of its keys keeps its reference, is rescaled by
/// exactly 1 and adds exact zeros. So it does not matter which such tiles are visited, nor what other rows do.
template <int kRowBlocks>
struct RowSoftmax {
  float scale_log2;                ///< softmax scale times log2(e)
  float slack;                     ///< 8 / scale_log2, finite
  float reference[kRowBlocks][2];  ///< unscaled; -inf until a key is seen
  float sum[kRowBlocks][2];        ///< of the weights exp(scale (x - reference)) of this thread's keys
  float exponent[kRowBlocks][2];   ///< scale_log2 * reference, or 0 while the reference is -inf; of the current tile

  __device__ RowSoftmax(float scale_log2_, float slack_) : scale_log2(scale_log2_), slack(slack_) {
#pragma unroll
    for (int b = 0; b < kRowBlocks; ++b) {
      reference[b][0] = reference[b][1] = kNegativeInfinity<float>;
      sum[b][0] = sum[b][1] = 0.0f;
    }
  }

  /// Takes in a tile's maxima (of this thread's keys); rescales the sums and the output accumulators if need be.
  template <int kColumns>
  __device__ void raise_reference(const float (&maximum)[kRowBlocks][2], float (&output)[kRowBlocks][kColumns][4]) {
    bool changed = false;
    float factor[kRowBlocks][2];
#pragma unroll
    for (int b = 0; b < kRowBlocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float seen = larger_or_nan(maximum[b][half], __shfl_xor_sync(0xFFFFFFFFu, maximum[b][half], 1));
        seen = larger_or_nan(seen, __shfl_xor_sync(0xFFFFFFFFu, seen, 2));
        const float previous = reference[b][half];
        const bool keep = __fsub_rn(seen, previous) <= slack || previous != previous;
        const float raised = keep ? previous : seen;
        reference[b][half] = raised;
        exponent[b][half] = raised == kNegativeInfinity<float> ? 0.0f : __fmul_rn(raised, scale_log2);
        // -inf before: 0 (there is nothing to rescale). Kept: exactly 1, or 0 if it is -inf and all is 0.
        const float before = __fmul_rn(previous, scale_log2);
        const float rounding = far_exponent(before) ? 0.0f : -__fmaf_rn(previous, scale_log2, -before);
        factor[b][half] = exp2_approx(is_far(b, half) ? __fmaf_rn(__fsub_rn(previous, raised), scale_log2, rounding)
                                                      : __fsub_rn(before, exponent[b][half]));
        changed = changed || !keep;
      }
    }
    if (!__any_sync(0xFFFFFFFFu, changed)) return;
#pragma unroll
    for (int b = 0; b < kRowBlocks; ++b) {
      sum[b][0] = __fmul_rn(sum[b][0], factor[b][0]);
      sum[b][1] = __fmul_rn(sum[b][1], factor[b][1]);
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) output[b][n][e] = __fmul_rn(output[b][n][e], factor[b][e / 2]);
      }
    }
  }

  /// Beyond this a rounded exponent is too far from scale_log2 * reference: half a unit in its last place is half a
  /// power of two. The scores of such rows are made relative to the reference before they are scaled, and their
  /// exponent is 0.
  [[nodiscard]] static __device__ bool far_exponent(float exponent) { return fabsf(exponent) >= 0x1p24f; }
  [[nodiscard]] __device__ bool is_far(int b, int half) const { return far_exponent(exponent[b][half]); }

  [[nodiscard]] __device__ bool any_row_is_far() const {
    bool far = false;
#pragma unroll
    for (int b = 0; b < kRowBlocks; ++b) far = far || is_far(b, 0) || is_far(b, 1);
    return __any_sync(0xFFFFFFFFu, far) != 0;
  }

  [[nodiscard]] __device__ float relative_if_far(float x, int b, int half) const {
    return is_far(b, half) ? __fsub_rn(x, reference[b][half]) : x;
  }

  __device__ void clear_far_exponents() {
#pragma unroll
    for (int b = 0; b < kRowBlocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) exponent[b][half] = is_far(b, half) ? 0.0f : exponent[b][half];
    }
  }

  /// exp(scale (x - reference)); exactly 0 for x = -inf. Scores of far rows are relative already.
  [[nodiscard]] __device__ float weight(float x, int b, int half) const {
    return exp2_approx(__fmaf_rn(x, scale_log2, -exponent[b][half]));
  }

  /// Sums over the quads, after the last tile.
  __device__ void finish() {
#pragma unroll
    for (int b = 0; b < kRowBlocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        sum[b][half] += __shfl_xor_sync(0xFFFFFFFFu, sum[b][half], 1);
        sum[b][half] += __shfl_xor_sync(0xFFFFFFFFu, sum[b][half], 2);
      }
    }
  }

  /// What the row's output is multiplied by; 0 for a row that attends to nothing.
  [[nodiscard]] __device__ float inverse_sum(int b, int half) const {
    return sum[b][half] == 0.0f ? 0.0f : __fdiv_rn(1.0f, sum[b][half]);
  }

  [[nodiscard]] __device__ float logsumexp(int b, int half, float scale) const {
    if (sum[b][half] == 0.0f) return kNegativeInfinity<float>;
    return __fmaf_rn(reference[b][half], scale, logf(sum[b][half]));
  }
};

}  // namespace modelopt::kernels::cuda::sm80
