// Positions as ranges: of eight consecutive keys at once, the bits that visible_by_position and dense_by_position give
// key by key. Host and device; a test compares them for all small positions.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_params.h"

namespace modelopt::kernels::cuda::sm80 {

/// The keys of a thread in one row: eight consecutive ones, the first a multiple of 8.
inline constexpr int kKeysPerThread = 8;
inline constexpr std::uint32_t kAllKeys = 0xFF;

MODELOPT_HOST_DEVICE constexpr int clamp_to_run(int keys) {
  return keys < 0 ? 0 : keys > kKeysPerThread ? kKeysPerThread : keys;
}

/// Bit i is set iff begin <= first_key + i < end.
MODELOPT_HOST_DEVICE constexpr std::uint32_t keys_in_range(int first_key, int begin, int end) {
  return (kAllKeys << clamp_to_run(begin - first_key)) & (kAllKeys >> (kKeysPerThread - clamp_to_run(end - first_key)));
}

/// The keys first_key … first_key + 7 that the row at position p may see.
MODELOPT_HOST_DEVICE constexpr std::uint32_t visible_keys(const AttentionParams& params, int p, int first_key,
                                                          int k_len) {
  const int begin = params.sliding_window == 0 ? 0 : p - params.sliding_window + 1;
  const int end = params.is_causal && p + 1 < k_len ? p + 1 : k_len;
  return keys_in_range(first_key, begin, end);
}

/// Those of the keys that stay dense for the row, whatever selection says.
MODELOPT_HOST_DEVICE constexpr std::uint32_t dense_keys(const AttentionParams& params, int p, int first_key) {
  return keys_in_range(first_key, 0, params.num_sink_tokens) |
         keys_in_range(first_key, p - params.dense_window_size + 1, p + 1);
}

}  // namespace modelopt::kernels::cuda::sm80
