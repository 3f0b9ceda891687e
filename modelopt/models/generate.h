// Text generation: prefill (whole or in chunks), then one token per step, for a batch of prompts of any lengths.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include <modelopt/models/causal_lm.h>
#include <modelopt/models/sampling.h>

namespace modelopt::models {

struct GenerateConfig {
  std::int64_t max_new_tokens = 128;         ///< >= 1, per sequence
  std::vector<std::int64_t> stop_token_ids;  ///< a sequence ends after it has produced one of them
  std::int64_t chunk_size = 0;               ///< prompt tokens of a sequence per forward; 0 = the whole prompt at once
  /// Sequence i of the batch draws from a generator of its own, seeded with `seed + i`: it gets the tokens that its
  /// prompt alone would get with that seed (up to rounding of the logits).
  SamplingConfig sampling;
};

enum class FinishReason { kStop, kLength };

[[nodiscard]] constexpr std::string_view to_string(FinishReason reason) {
  return reason == FinishReason::kStop ? "stop" : "length";
}

struct GeneratedSequence {
  std::vector<std::int64_t> ids;  ///< the new tokens; the last one is the stop token if the reason is kStop
  FinishReason finish_reason = FinishReason::kLength;
};

struct GenerateResult {
  std::vector<GeneratedSequence> sequences;  ///< in the order of the prompts
  std::int64_t prefill_tokens = 0;           ///< prompt tokens of all sequences
  std::int64_t decode_tokens = 0;            ///< tokens that took a decode step: all new ones but the first of each
  double prefill_seconds = 0.0;              ///< until the first token of every sequence is chosen
  double decode_seconds = 0.0;
  std::vector<ModuleStats> prefill_stats;  ///< summed over chunks; B = prompts; empty where no slot asks for statistics
  std::vector<ModuleStats> decode_stats;   ///< summed over steps; likewise
};

/// Called for each new token, in order within a sequence, as soon as it is chosen.
using TokenCallback = std::function<void(std::size_t sequence, std::int64_t token)>;

/// Generates without gradients. Throws InvalidArgument for no prompt, an empty prompt or a config out of its domain,
/// and whatever the forward throws.
[[nodiscard]] GenerateResult generate(CausalLM& model, const std::vector<std::vector<std::int64_t>>& prompts,
                                      const GenerateConfig& config, const TokenCallback& on_token = {});

}  // namespace modelopt::models
