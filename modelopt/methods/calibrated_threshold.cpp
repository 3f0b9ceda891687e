#include <modelopt/methods/calibrated_threshold.h>

#include <algorithm>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <modelopt/error.h>
#include <modelopt/util/log.h>

namespace modelopt::methods {
namespace {

// What has been warned about: a model may be sparsified many times over, as an evaluation does for each of its windows,
// and its modules are then the same with other methods in their slots.
class Warned {
 public:
  /// Whether this is new; from then on it is not.
  bool insert(const std::string& module, attention::Phase phase, const config::PhaseCalibration& calibration,
              double target_sparsity) {
    const std::lock_guard lock(mutex_);
    auto known = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) {
      return entry.phase == phase && entry.target_sparsity == target_sparsity && entry.calibration == calibration;
    });
    if (known == entries_.end()) known = entries_.insert(known, {phase, target_sparsity, calibration, {}});
    return known->modules.insert(module).second;
  }

 private:
  struct Entry {  // the modules of a model mostly have one calibration
    attention::Phase phase;
    double target_sparsity;
    config::PhaseCalibration calibration;
    std::set<std::string> modules;
  };
  std::mutex mutex_;
  std::vector<Entry> entries_;
};

// Prompts that stand for a length are some tokens shorter, and decode goes on beyond it: within a tenth a length is as
// good as measured.
std::int64_t nearest_measured(const config::PhaseCalibration& calibration, std::int64_t length) {
  constexpr double kTolerance = 1.1;
  const auto nearest = [&](std::int64_t shortest, std::int64_t longest) {
    const std::int64_t inside = std::clamp(length, shortest, longest);
    const auto [less, more] = std::minmax({static_cast<double>(inside), static_cast<double>(length)});
    return more <= kTolerance * less ? inside : length;
  };
  if (calibration.form == config::CalibrationForm::kTable)
    return nearest(calibration.table->lengths.front(), calibration.table->lengths.back());
  const auto& fit = calibration.exponential->fit;
  return fit ? nearest(fit->min_length, fit->max_length) : length;
}

// "; of the measured lengths, 2048, 4096 can reach the target", where a table decides.
std::string where_reached(const config::PhaseCalibration& calibration, double target_sparsity) {
  if (calibration.form != config::CalibrationForm::kTable) return "";
  std::string lengths;
  for (const std::int64_t length : calibration.table->lengths)
    if (!calibration.out_of_range(target_sparsity, length)) lengths += str(lengths.empty() ? "" : ", ", length);
  return str("; of the measured lengths, ", lengths.empty() ? "none" : lengths, " can reach the target");
}

}  // namespace

CalibratedThreshold::CalibratedThreshold(std::string module, attention::Phase phase,
                                         config::PhaseCalibration calibration, double target_sparsity)
    : module_(std::move(module)),
      phase_(phase),
      calibration_(std::move(calibration)),
      target_sparsity_(target_sparsity) {}

double CalibratedThreshold::at(std::int64_t length) const {
  if (length == 0) return 0.0;  // no keys
  const double threshold = calibration_.threshold(target_sparsity_, length, config::Extrapolation::kAllow);
  const double applied = std::min(threshold, kLargestThreshold);
  ++calibrated_;
  if (threshold > kLargestThreshold) ++clamped_;
  const auto problem = calibration_.out_of_range(target_sparsity_, nearest_measured(calibration_, length));
  if (!problem && threshold <= kLargestThreshold) return applied;
  if (out_of_range_++ == 0)
    warn_once(problem.value_or(str("target sparsity ", target_sparsity_, " at ", length, " tokens")), applied);
  return applied;
}

attention::ThresholdCounts CalibratedThreshold::counts() const {
  return {.calibrated = calibrated_, .out_of_range = out_of_range_, .clamped = clamped_};
}

void CalibratedThreshold::warn_once(const std::string& problem, double threshold) const {
  static Warned warned;
  if (!warned.insert(module_, phase_, calibration_, target_sparsity_)) return;
  log::warn(str("skip-softmax", module_.empty() ? "" : " on " + module_, ", ", to_string(phase_), ": ", problem,
                "; the threshold is ", threshold, where_reached(calibration_, target_sparsity_),
                " (said once for each module)"));
}

}  // namespace modelopt::methods
