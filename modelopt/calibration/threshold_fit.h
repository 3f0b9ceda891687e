// From counted blocks to thresholds: the table and the exponential of modelopt/config/threshold_calibration.h.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <modelopt/calibration/block_counts.h>
#include <modelopt/config/threshold_calibration.h>

namespace modelopt::calibration {

/// Shares of skipped blocks over all modules together, per length. counts: by length in tokens, each the sum over its
/// prompts; thresholds: the trials. Throws InvalidArgument for a length whose prompts have no visible block.
[[nodiscard]] config::ThresholdTable make_table(const std::map<std::int64_t, BlockCounts>& counts,
                                                const std::vector<double>& thresholds);

/// Points of the exponential fit lie within these shares: outside the relation bends.
inline constexpr double kLeastFitShare = 0.1, kMostFitShare = 0.9;

struct ExponentialFitOptions {
  std::int64_t length = 0;  ///< the length to fit for, in tokens, within the table's lengths
  /// Squared errors of ln scale count alike; otherwise each counts with scale², the first-order weight that makes it
  /// the squared error of the scale itself.
  bool logspace = true;
};

/// Weighted least squares of ln(λ · length) over the shares at `length`, in closed form. Nothing where fewer than three
/// points, or none two of different shares, lie within the range above, or where λ does not rise with the share.
[[nodiscard]] std::optional<config::ExponentialThreshold> fit_exponential(const config::ThresholdTable& table,
                                                                          const ExponentialFitOptions& options);

/// What is to be known about a phase's calibration before it is used for `target_sparsity`, in sentences: too few
/// points for the exponential, its R² below 0.9, a target out of its range, λ >= 1, what it will miss at other lengths,
/// and at which lengths the target cannot be reached.
[[nodiscard]] std::vector<std::string> calibration_remarks(const config::PhaseCalibration& calibration,
                                                           double target_sparsity);

}  // namespace modelopt::calibration
