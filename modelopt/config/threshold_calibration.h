// What calibration has found out about skip-softmax: the threshold λ that skips a wanted share of the blocks.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <modelopt/error.h>

namespace modelopt::config {

/// How λ follows from a target. The share of blocks that a λ skips depends on the sequence's length: at a fixed share λ
/// falls faster than 1/length, so the exponential misses away from the length that it was fitted for; the table does
/// not.
enum class CalibrationForm {
  kExponential,  ///< λ = a · exp(b · target) / length: what other runtimes read
  kTable,        ///< measured shares, interpolated
};

[[nodiscard]] constexpr std::string_view to_string(CalibrationForm form) {
  return form == CalibrationForm::kExponential ? "exponential" : "table";
}

/// How well the exponential describes what was measured.
struct ExponentialFit {
  std::int64_t length = 0;                        ///< the length in tokens that it was fitted for
  std::int64_t points = 0;                        ///< (λ, share) pairs that took part
  double r_squared = 0.0;                         ///< of ln scale over share, weighted; 1 is perfect
  double min_sparsity = 0.0, max_sparsity = 0.0;  ///< shares of those points
  std::int64_t min_length = 0, max_length = 0;    ///< lengths that were measured, in tokens

  bool operator==(const ExponentialFit&) const = default;
};

/// scale = a · exp(b · sparsity), λ = scale / length.
struct ExponentialThreshold {
  double a = 0.0;                     ///< > 0, in tokens
  double b = 0.0;                     ///< > 0
  std::optional<ExponentialFit> fit;  ///< none where another tool has written a and b: any target is in range

  /// a · exp(b · target_sparsity) / length; may be 1 or more.
  [[nodiscard]] double threshold(double target_sparsity, std::int64_t length) const;

  bool operator==(const ExponentialThreshold&) const = default;
};

/// Share of visible blocks that each trial λ skips, per length. Between two lengths the share at a λ is interpolated
/// linearly in ln length, between two trials linearly in ln λ; the share rises with λ, so that the inverse is unique.
struct ThresholdTable {
  std::vector<std::int64_t> lengths;        ///< [B] ascending, in tokens
  std::vector<double> thresholds;           ///< [T] ascending trial λ, 0 < λ < 1
  std::vector<std::vector<double>> shares;  ///< [B][T] mean over samples, layers and heads; not falling along T
  std::vector<double> layer_spread;         ///< [T] standard deviation of the share over layers, mean over lengths

  /// Shares [T] at this length; beyond the first and the last length, those of the nearest.
  [[nodiscard]] std::vector<double> shares_at(std::int64_t length) const;
  /// The smallest λ that skips the target's share. Beyond the shares at this length, the first or last trial λ.
  [[nodiscard]] double threshold(double target_sparsity, std::int64_t length) const;
  /// Share of blocks that λ skips at this length: the inverse of threshold(); beyond the trials, as at the nearest.
  [[nodiscard]] double share(double threshold, std::int64_t length) const;

  bool operator==(const ThresholdTable&) const = default;
};

/// What to do with a target or a length outside of what was measured.
enum class Extrapolation { kRefuse, kAllow };

/// Calibration of one phase (prefill or decode). The part that `form` names is there; the other one may be.
struct PhaseCalibration {
  CalibrationForm form = CalibrationForm::kTable;  ///< which part threshold() uses
  std::optional<ExponentialThreshold> exponential;
  std::optional<ThresholdTable> table;

  /// λ for a target share of skipped blocks, 0 < target_sparsity < 1, in sequences of `length` tokens (in chunked
  /// prefill: the whole prompt's). With kRefuse throws ConfigError, the text of out_of_range(), where there is one.
  /// With kAllow the exponential gives whatever its formula says, λ >= 1 too, and the table its nearest entry.
  [[nodiscard]] double threshold(double target_sparsity, std::int64_t length,
                                 Extrapolation extrapolation = Extrapolation::kRefuse) const;

  /// Why the threshold would be an extrapolation: "target sparsity 0.6 at 1024 tokens, expected 0.02 to 0.35, what was
  /// measured at this length". None where it is not one.
  [[nodiscard]] std::optional<std::string> out_of_range(double target_sparsity, std::int64_t length) const;

  /// The largest share of blocks that a λ < 1 is known to skip at this length; none where nothing is known (an
  /// exponential of another tool).
  [[nodiscard]] std::optional<double> largest_sparsity(std::int64_t length) const;

  bool operator==(const PhaseCalibration&) const = default;
};

/// Which data a calibration has seen.
struct CalibrationProvenance {
  std::string data_hash;  ///< SHA-256 of the token ids of all samples, as 64 hexadecimal digits
  std::uint64_t seed = 0;
  std::int64_t samples = 0;

  bool operator==(const CalibrationProvenance&) const = default;
};

/// The thresholds of a model, for both phases. It holds for one block size only.
struct ThresholdCalibration {
  std::int64_t br = 128, bc = 128;                  ///< query rows and keys of a block, as the method's parameters
  std::optional<CalibrationProvenance> provenance;  ///< none where another tool has calibrated
  std::optional<PhaseCalibration> prefill, decode;  ///< at least one

  bool operator==(const ThresholdCalibration&) const = default;
};

/// {"br": …, "bc": …, "provenance": {"data_hash", "seed", "samples"}, "prefill": {"form": "table", "exponential": {"a",
/// "b", "fit": {…}}, "table": {"lengths", "thresholds", "shares", "layer_spread"}}, "decode": {…}}; what is absent has
/// no key.
[[nodiscard]] nlohmann::ordered_json to_json(const ThresholdCalibration& calibration);

/// The inverse, strict: throws ConfigError "ORIGIN: JSON.PATH: VALUE, expected EXPECTATION" for the first key that is
/// unknown or missing, has a wrong type, or a value out of its domain. `path` is the JSON path of `json` in its file.
[[nodiscard]] ThresholdCalibration parse_threshold_calibration(const nlohmann::ordered_json& json,
                                                               std::string_view origin, std::string_view path = "$");

}  // namespace modelopt::config
