// A RULER prompt before its size is known.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <modelopt/calibration/counter_random.h>
#include <modelopt/calibration/haystack.h>
#include <modelopt/calibration/ruler_task.h>

namespace modelopt::calibration {

/// Everything random is drawn before the size: prompts of two sizes differ in their filling alone.
struct RulerDraft {
  std::function<std::string(std::size_t units)> prompt;  ///< for a number of units from `least` to `most`
  std::vector<std::string> answers;
  std::size_t least = 0;
  std::size_t most = 0;
};

/// The draft views the haystack. The words of kCommonWords occur as often as RULER has them, 30 times and 3 times, or
/// less often where `target_tokens` leaves no room for that.
[[nodiscard]] RulerDraft draft_ruler(RulerTask task, const Haystack& haystack, CounterRandom random,
                                     std::int64_t target_tokens);

}  // namespace modelopt::calibration
