// λ of one phase of a module from its calibration; what the calibration does not cover is said and counted.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include <modelopt/attention/attention_slot.h>
#include <modelopt/config/threshold_calibration.h>

namespace modelopt::methods {

/// The largest threshold that is ever applied; the operator takes λ < 1.
inline constexpr double kLargestThreshold = 0.9999;

class CalibratedThreshold {
 public:
  /// `module` is the name of the module in its model, for messages. 0 < target_sparsity < 1.
  CalibratedThreshold(std::string module, attention::Phase phase, config::PhaseCalibration calibration,
                      double target_sparsity);

  /// λ for a sequence whose full length is `length` tokens, at most kLargestThreshold; 0 without tokens.
  ///
  /// A target or a length (by more than a tenth) outside of what was measured, and a λ that had to be lowered, are
  /// counted. The first of a module's phase is warned about, in one line; a module of that name which gets the same
  /// calibration and target again is not.
  [[nodiscard]] double at(std::int64_t length) const;

  [[nodiscard]] attention::ThresholdCounts counts() const;

 private:
  void warn_once(const std::string& problem, double threshold) const;

  std::string module_;
  attention::Phase phase_;
  config::PhaseCalibration calibration_;
  double target_sparsity_;
  mutable std::atomic<std::int64_t> calibrated_ = 0, out_of_range_ = 0, clamped_ = 0;
};

}  // namespace modelopt::methods
