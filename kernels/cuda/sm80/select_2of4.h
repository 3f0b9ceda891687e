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
  std::uint32_t metadata = 0;  ///< index of first | index of second << 2; first < second
};

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

/// The two largest of four scores, the lower index first among equals. Scores that are -inf are kept only for want of
/// others; their weight is 0. If any score is NaN, one of the two values is, and the metadata is valid.
///
/// Both of a pair are kept if the smaller one of that pair wins over the larger one of the other; otherwise the winner
/// of each pair is.
MODELOPT_HOST_DEVICE inline KeptPair keep_2_of_4(float x0, float x1, float x2, float x3) {
  const bool first_wins_01 = x0 >= x1;
  const bool first_wins_23 = x2 >= x3;
  const float high_01 = larger_or_nan(x0, x1);
  const float high_23 = larger_or_nan(x2, x3);
  const bool both_01 = fminf(x0, x1) >= high_23;
  const bool both_23 = fminf(x2, x3) > high_01;
  KeptPair kept{high_01, high_23, (first_wins_01 ? 8u : 9u) + (first_wins_23 ? 0u : 4u)};
  if (both_01) kept = {x0, x1, 0x4u};
  if (both_23) kept = {x2, x3, 0xEu};
  return kept;
}

/// The same for 1:4: the loser of the two becomes -inf, whose weight is 0.
MODELOPT_HOST_DEVICE inline KeptPair keep_1_of_4(float x0, float x1, float x2, float x3) {
  const KeptPair two = keep_2_of_4(x0, x1, x2, x3);
  const bool first_wins = two.first >= two.second;
  const float winner = larger_or_nan(two.first, two.second);
  return {first_wins ? winner : kNegativeInfinity<float>, first_wins ? kNegativeInfinity<float> : winner, two.metadata};
}

}  // namespace modelopt::kernels::cuda::sm80
