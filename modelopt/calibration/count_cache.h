// Counts of prompts on disk, so that an interrupted calibration goes on where it stopped.
#pragma once

#include <nlohmann/json.hpp>

#include <cstddef>
#include <filesystem>
#include <optional>

#include <modelopt/calibration/block_counts.h>

namespace modelopt::calibration {

/// One file per prompt, named after a hash of its key: everything that the counts depend on.
class CountCache {
 public:
  /// A directory, made when something is stored; empty: nothing is kept.
  explicit CountCache(std::filesystem::path directory) : directory_(std::move(directory)) {}

  /// The counts of so many modules and trials that were stored under this key. Throws DataError for a file that is not
  /// what store() writes: counts of other sizes, or that cannot be.
  [[nodiscard]] std::optional<PromptCounts> find(const nlohmann::ordered_json& key, std::size_t modules,
                                                 std::size_t trials) const;

  /// The file appears whole or not at all. Throws DataError where it cannot be written.
  void store(const nlohmann::ordered_json& key, const PromptCounts& counts) const;

 private:
  [[nodiscard]] std::filesystem::path path_of(const nlohmann::ordered_json& key) const;

  std::filesystem::path directory_;
};

}  // namespace modelopt::calibration
