// 2:4 and 1:4 selection as the sparse tensor cores take it: two values of each group and where they come from. The rule
// is keep_n_of_m<4> of selection.h, of which this is the spelling in few instructions; a test compares the two on all
// orderings and ties.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/selection.h"

namespace modelopt::kernels::cuda::sm80 {

/// The two kept scores of a group, in the order of their keys.
struct KeptPair {
  float first = 0.0f;
  float second = 0.0f;
};

/// The metadata of a word of eight groups is the sum of this and of what the groups add.
inline constexpr std::uint32_t kMetadataBase = 0x88888888u;

/// The larger one, NaN if either is NaN: a NaN score must reach the row's maximum even if its key is dropped.
MODELOPT_HOST_DEVICE inline float larger_or_nan(float a, float b) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return a > b || a != a ? a : b;
#endif
}

/// The two largest of four scores, the lower index first among equals. Adds their indices to the word of metadata, less
/// the base: index of first | index of second << 2, shifted left by `shift`; the first index is the lower one. Scores
/// that are -inf are kept only for want of others; their weight is 0. If any score is NaN, one of the two values is,
/// and the metadata is valid.
///
/// Both of a pair are kept if the smaller one of that pair wins over the larger one of the other (0, 1: 4 and 2, 3:
/// 14); otherwise the winner of each pair is (8, 9, 12 or 13).
MODELOPT_HOST_DEVICE inline KeptPair keep_2_of_4(float x0, float x1, float x2, float x3, int shift,
                                                 std::uint32_t& metadata) {
  const float high_01 = larger_or_nan(x0, x1);
  const float high_23 = larger_or_nan(x2, x3);
  const bool both_01 = fminf(x0, x1) >= high_23;
  const bool both_23 = fminf(x2, x3) > high_01;
  const bool one_each = !both_01 && !both_23;
  if (both_01) metadata -= 4u << shift;
  if (both_23) metadata += 6u << shift;
  if (one_each && !(x0 >= x1)) metadata += 1u << shift;
  if (one_each && !(x2 >= x3)) metadata += 4u << shift;
  return {both_23 ? x2 : both_01 ? x0 : high_01, both_23 ? x3 : both_01 ? x1 : high_23};
}

/// The same for 1:4: the loser of the two becomes -inf, whose weight is 0.
MODELOPT_HOST_DEVICE inline KeptPair keep_1_of_4(float x0, float x1, float x2, float x3, int shift,
                                                 std::uint32_t& metadata) {
  const KeptPair two = keep_2_of_4(x0, x1, x2, x3, shift, metadata);
  const bool first_wins = two.first >= two.second;
  const float winner = larger_or_nan(two.first, two.second);
  return {first_wins ? winner : kNegativeInfinity<float>, first_wins ? kNegativeInfinity<float> : winner};
}

}  // namespace modelopt::kernels::cuda::sm80
