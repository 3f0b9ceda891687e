// Which prompts a calibration measures.
#pragma once

#include <cstdint>
#include <vector>

#include <modelopt/calibration/ruler_sample.h>
#include <modelopt/config/sparse_config.h>

namespace modelopt::calibration {

/// `bins` lengths up to max_seqlen, each half of the next. Throws ConfigError where the shortest has no token.
[[nodiscard]] std::vector<std::int64_t> length_bins(std::int64_t max_seqlen, std::int64_t bins);

struct PlannedSample {
  std::int64_t length = 0;  ///< that its counts belong to, in tokens
  RulerRequest request;     ///< of this length
};

/// `samples` prompts, as many of each length as of any other (the remainder goes to the longest). Within a length the
/// tasks take turns, those that have room in it; with fewer prompts than tasks, those that have room in the shortest,
/// so that lengths differ in nothing else.
///
/// `room`: tokens of the longest prompt that the model's context and the decode steps leave room for. It takes the
/// place of lengths beyond it. Throws ConfigError for fewer samples than lengths, and for a length without room for any
/// task.
[[nodiscard]] std::vector<PlannedSample> plan_samples(const config::CalibrationConfig& calibration,
                                                      const RulerGenerator& generator, std::uint64_t seed,
                                                      std::int64_t room);

}  // namespace modelopt::calibration
