// Choosing the next tokens from logits, one row per sequence.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace modelopt::models {

/// Filters apply in the order temperature, top_k, top_p (as in transformers).
struct SamplingConfig {
  bool do_sample = false;    ///< false: greedy, and the other fields are not used
  double temperature = 1.0;  ///< finite, > 0
  std::int64_t top_k = 0;    ///< keep the k most likely tokens; 0 = all
  double top_p = 1.0;        ///< keep the fewest most likely tokens whose probabilities reach p; (0, 1]
  std::uint64_t seed = 0;
};

/// Throws InvalidArgument that names the field, its value and what was expected.
void validate(const SamplingConfig& config);

// Both functions compute where the logits are; one small copy brings the tokens of all rows to the host.

/// The most likely token of each row of logits [rows, vocab]; equal logits: the lowest id. Throws Error where no logit
/// of a row is a number.
[[nodiscard]] std::vector<std::int64_t> greedy_tokens(const at::Tensor& logits);

/// Draws a token from each row of logits [rows, vocab] with one uniform number of the row's generator; probabilities
/// are computed in fp64, so that a token depends on its row and its generator's state alone. Throws Error for a NaN and
/// where no logit of a row is finite.
[[nodiscard]] std::vector<std::int64_t> sample_tokens(const at::Tensor& logits, const SamplingConfig& config,
                                                      const std::vector<at::Generator>& generators);

}  // namespace modelopt::models
