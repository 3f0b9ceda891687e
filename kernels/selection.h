// The one N:M selection rule. Every backend but the scalar reference (which spells its own, to check this one) calls
// it; a kernel that has to write it in vector or PTX instructions is tested against it exhaustively.
#pragma once

#include <cstdint>
#include <limits>

#if defined(__CUDACC__)
#define MODELOPT_HOST_DEVICE __host__ __device__
#else
#define MODELOPT_HOST_DEVICE
#endif

namespace modelopt::kernels {

/// A constant of its own: device code may use its value, but not call std::numeric_limits.
template <typename Score>
inline constexpr Score kNegativeInfinity = -std::numeric_limits<Score>::infinity();

/// Whether key `first` of a group wins over key `second`, for first < second: equal scores go to the lower index.
/// Exactly one of the two wins for every pair of scores, NaN included.
template <typename Score>
MODELOPT_HOST_DEVICE constexpr bool wins_over_later_key(Score first, Score second) {
  return !(first < second);
}

/// The kept keys of one group of M consecutive keys: bit i is set iff key i is kept.
///
/// Kept are the n visible keys with the largest scores, the lower index first among equals: always exactly
/// min(n, visible). A key is visible if its bit in `visible` (visible by position) is set and its score is not -inf.
/// With NaN scores the result is deterministic but otherwise unspecified; such a row's output is NaN anyway.
///
/// Each of the M(M-1)/2 pairs is compared once; a key is kept if fewer than n visible keys win over it.
template <int M, typename Score>
[[nodiscard]] MODELOPT_HOST_DEVICE constexpr std::uint32_t keep_n_of_m(const Score (&scores)[M], std::uint32_t visible,
                                                                       int n) {
  static_assert(M == 4 || M == 8, "groups have 4 or 8 keys");
  bool candidate[M] = {};
  int better[M] = {};
  for (int i = 0; i < M; ++i) {
    candidate[i] = ((visible >> i) & 1u) != 0 && scores[i] != kNegativeInfinity<Score>;
  }
  for (int i = 0; i < M; ++i) {
    for (int j = i + 1; j < M; ++j) {
      const bool i_wins = wins_over_later_key(scores[i], scores[j]);
      better[i] += candidate[j] && !i_wins;
      better[j] += candidate[i] && i_wins;
    }
  }
  std::uint32_t kept = 0;
  for (int i = 0; i < M; ++i) {
    kept |= static_cast<std::uint32_t>(candidate[i] && better[i] < n) << i;
  }
  return kept;
}

}  // namespace modelopt::kernels
