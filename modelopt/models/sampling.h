// Choosing the next token from one row of logits.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>

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

/// The most likely token of logits [vocab]; equal logits: the lowest id. Throws Error where no logit is a number.
[[nodiscard]] std::int64_t greedy_token(const at::Tensor& logits);

/// Draws a token from logits [vocab] with one uniform number of the generator; probabilities are computed in fp64, so
/// the token depends on the logits and the generator's state alone. Throws Error for a NaN and where none is finite.
[[nodiscard]] std::int64_t sample_token(const at::Tensor& logits, const SamplingConfig& config,
                                        at::Generator& generator);

}  // namespace modelopt::models
