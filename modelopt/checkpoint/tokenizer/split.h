// Cutting words at the matches of a pattern: what most pre-tokenizers are.
#pragma once

#include <cstdint>
#include <vector>

#include <modelopt/checkpoint/tokenizer/json_node.h>
#include <modelopt/checkpoint/tokenizer/pattern.h>
#include <modelopt/checkpoint/tokenizer/pre_tokenizer.h>

namespace modelopt::checkpoint::tokenizer {

/// What becomes of a match. Cutting "the-final--countdown" at "-" gives:
enum class SplitBehavior : std::uint8_t {
  kRemoved,             ///< the | final | countdown
  kIsolated,            ///< the | - | final | - | - | countdown
  kMergedWithPrevious,  ///< the- | final- | - | countdown
  kMergedWithNext,      ///< the | -final | - | -countdown
  kContiguous,          ///< the | - | final | -- | countdown
};

/// Reads a behavior by its name ("MergedWithPrevious").
[[nodiscard]] SplitBehavior read_split_behavior(const JsonNode& node);

class Split final : public PreTokenizer {
 public:
  /// With `invert`, what lies between the matches counts as the matches.
  Split(Pattern pattern, SplitBehavior behavior, bool invert);

  void apply(Words& words, RegexScratch& scratch) const override;

 private:
  Pattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

}  // namespace modelopt::checkpoint::tokenizer
