// Calibration of skip-softmax: measures on prompts, fits, and puts the thresholds into a configuration.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <modelopt/calibration/ruler_sample.h>
#include <modelopt/config/sparse_config.h>
#include <modelopt/config/threshold_calibration.h>

namespace modelopt::models {
class CausalLM;
}

namespace modelopt::calibration {

struct CalibrateOptions {
  std::uint64_t seed = 0;       ///< of the prompts
  std::string kernel = "auto";  ///< backend of the operator
  config::CalibrationForm form = config::CalibrationForm::kTable;
  std::int64_t fit_length = 0;  ///< the length that the exponential is fitted for, in tokens; 0: the longest
  bool extrapolate = false;     ///< accept targets that no measured threshold reaches
  /// Names model and tokenizer in the cache (model_hash.h). Needed where the configuration has a cache_dir.
  std::string model_hash;
  /// Called after each prompt with the tokens done so far and in total. What it throws ends the calibration; what was
  /// measured is in the cache.
  std::function<void(std::int64_t done, std::int64_t total)> progress;
};

/// A prompt that was measured.
struct MeasuredSample {
  RulerTask task = RulerTask::kNiahSingle;
  std::int64_t length = 0;  ///< that it stands for
  std::int64_t tokens = 0;
  bool cached = false;  ///< its counts came from the cache
};

/// What a skip-softmax rule got, from the counts of its own modules.
struct RuleCalibration {
  std::string rule;                  ///< its pattern, or "default"
  std::vector<std::string> modules;  ///< attention modules that it decides, in the model's order
  config::PhaseTargets targets;      ///< of both phases; 0: dense
  config::ThresholdCalibration calibration;
  std::vector<std::string> remarks;  ///< sentences, see calibration_remarks(); each begins with its phase
};

struct CalibrationResult {
  std::vector<RuleCalibration> rules;    ///< in the configuration's order, at least one
  config::SparseAttentionConfig config;  ///< the given one, its skip-softmax rules calibrated
  std::vector<MeasuredSample> samples;
  double seconds = 0.0;
};

/// Runs the prompts of `config.calibration` through the model, dense, and counts for all trial thresholds at once what
/// they would skip; then `num_decode_tokens` greedy decode steps likewise. Each skip-softmax rule is fitted to its own
/// modules together, in the phases that it has a target for; other rules apply as they are. The model is left without
/// sparsity.
///
/// Throws ConfigError without a `calibration` block or a skip-softmax rule, for a rule without a target or without a
/// module, for rules that differ in br or bc, for max_seqlen beyond the model's context, a chunk_size that is no
/// multiple of br, and, unless `extrapolate`, for a target outside of what the thresholds skip at the longest length,
/// naming the largest share that can be reached.
/// Throws what plan_samples(), sparsify() and the forward throw.
[[nodiscard]] CalibrationResult calibrate(models::CausalLM& model, const RulerGenerator& generator,
                                          const config::SparseAttentionConfig& config, const CalibrateOptions& options);

}  // namespace modelopt::calibration
