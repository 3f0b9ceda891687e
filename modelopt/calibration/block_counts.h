// How many blocks each trial threshold would skip, in one phase of one prompt.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace modelopt::calibration {

/// Sums over heads and forwards, one row per attention module that skip-softmax is to run on, in the model's order.
struct BlockCounts {
  std::vector<std::int64_t> visible;               ///< [modules] blocks with a visible key
  std::vector<std::vector<std::int64_t>> skipped;  ///< [modules][trials]

  BlockCounts() = default;
  BlockCounts(std::size_t modules, std::size_t trials)
      : visible(modules, 0), skipped(modules, std::vector<std::int64_t>(trials, 0)) {}

  /// Adds the counts of a prompt of the same model and trials.
  BlockCounts& operator+=(const BlockCounts& other) {
    for (std::size_t m = 0; m < visible.size(); ++m) {
      visible[m] += other.visible[m];
      for (std::size_t t = 0; t < skipped[m].size(); ++t) skipped[m][t] += other.skipped[m][t];
    }
    return *this;
  }

  /// The rows of these modules alone.
  [[nodiscard]] BlockCounts of_modules(const std::vector<std::size_t>& modules) const {
    BlockCounts result;
    for (const std::size_t m : modules) {
      result.visible.push_back(visible[m]);
      result.skipped.push_back(skipped[m]);
    }
    return result;
  }

  bool operator==(const BlockCounts&) const = default;
};

/// Both phases of one prompt; decode is 0 where it is not calibrated.
struct PromptCounts {
  BlockCounts prefill, decode;

  bool operator==(const PromptCounts&) const = default;
};

}  // namespace modelopt::calibration
