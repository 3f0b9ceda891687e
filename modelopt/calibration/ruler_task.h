// The tasks of RULER (Hsieh et al., arXiv 2404.06654) that are generated here.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string_view>

namespace modelopt::calibration {

enum class RulerTask {
  kNiahSingle,         ///< one needle in the haystack
  kNiahMultikey,       ///< needles of four keys, one is asked for
  kNiahMultikeyLines,  ///< the haystack itself is needles, one is asked for
  kNiahMultivalue,     ///< four values of one key, all are asked for
  kNiahMultiquery,     ///< four keys, all are asked for
  kVariableTracking,   ///< a chain of assignments: all variables with the first one's value
  kCommonWords,        ///< the ten words that occur most often in a list
  kFrequentWords,      ///< the three most frequent words of text with zeta-distributed frequencies, α = 2
};

struct RulerTaskName {
  RulerTask task;
  std::string_view name;
};

/// All tasks in the order of the enumeration, under the names that options and reports use.
inline constexpr std::array<RulerTaskName, 8> kRulerTasks = {{{RulerTask::kNiahSingle, "niah_single"},
                                                              {RulerTask::kNiahMultikey, "niah_multikey"},
                                                              {RulerTask::kNiahMultikeyLines, "niah_multikey_lines"},
                                                              {RulerTask::kNiahMultivalue, "niah_multivalue"},
                                                              {RulerTask::kNiahMultiquery, "niah_multiquery"},
                                                              {RulerTask::kVariableTracking, "variable_tracking"},
                                                              {RulerTask::kCommonWords, "common_words"},
                                                              {RulerTask::kFrequentWords, "frequent_words"}}};

[[nodiscard]] constexpr std::string_view to_string(RulerTask task) {
  return kRulerTasks[static_cast<std::size_t>(task)].name;
}

[[nodiscard]] constexpr std::optional<RulerTask> find_ruler_task(std::string_view name) {
  for (const RulerTaskName& entry : kRulerTasks)
    if (entry.name == name) return entry.task;
  return std::nullopt;
}

}  // namespace modelopt::calibration
