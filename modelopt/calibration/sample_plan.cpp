#include <modelopt/calibration/sample_plan.h>

#include <algorithm>
#include <cstddef>

#include <modelopt/error.h>

namespace modelopt::calibration {

std::vector<std::int64_t> length_bins(std::int64_t max_seqlen, std::int64_t bins) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t length = max_seqlen; std::ssize(lengths) < bins; length /= 2) {
    MODELOPT_CHECK(length >= 1, ConfigError, "calibration: num_length_bins is ", bins, ", expected at most ",
                   lengths.size(), ": each length is half of the next, and max_seqlen is ", max_seqlen);
    lengths.push_back(length);
  }
  std::reverse(lengths.begin(), lengths.end());
  return lengths;
}

std::vector<PlannedSample> plan_samples(const config::CalibrationConfig& calibration, const RulerGenerator& generator,
                                        std::uint64_t seed, std::int64_t room) {
  std::vector<std::int64_t> lengths = length_bins(calibration.max_seqlen, calibration.num_length_bins);
  for (std::int64_t& length : lengths) length = std::min(length, room);
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  const auto bins = std::ssize(lengths);
  MODELOPT_CHECK(calibration.samples >= bins, ConfigError, "calibration: samples is ", calibration.samples,
                 ", expected at least one for each of the ", bins, " lengths");
  const std::vector<RulerTask> common = generator.fitting_tasks(lengths.front(), seed);
  std::vector<PlannedSample> plan;
  for (std::int64_t bin = 0; bin < bins; ++bin) {
    const std::int64_t length = lengths[static_cast<std::size_t>(bin)];
    std::vector<RulerTask> tasks = generator.fitting_tasks(length, seed);
    MODELOPT_CHECK(!tasks.empty(), ConfigError, "calibration: prompts of ", length,
                   " tokens have no room for any task, expected longer ones: a larger max_seqlen or a smaller "
                   "num_length_bins");
    const bool longest = bin + 1 == bins;
    const auto count =
        static_cast<std::size_t>(calibration.samples / bins + (longest ? calibration.samples % bins : 0));
    if (count < tasks.size()) tasks = common;
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t task = count < tasks.size() ? i * tasks.size() / count : i % tasks.size();
      plan.push_back({length, {.task = tasks[task], .target_tokens = length, .seed = seed, .index = i / tasks.size()}});
    }
  }
  return plan;
}

}  // namespace modelopt::calibration
