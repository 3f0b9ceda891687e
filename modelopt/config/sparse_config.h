// The typed sparsity configuration: which attention modules get which method, with which parameters.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <modelopt/config/threshold_calibration.h>
#include <modelopt/error.h>

namespace modelopt::config {

/// How a method runs: `eager` replaces the softmax of an attention computed with ATen operations, `fused` sets
/// parameters of the attention operator. Upstream's names `pytorch` and `triton` are aliases of the two.
enum class MethodBackend { kEager, kFused };

[[nodiscard]] constexpr std::string_view to_string(MethodBackend backend) {
  return backend == MethodBackend::kEager ? "eager" : "fused";
}

/// N:M sparse softmax (docs/semantics.md). Prefill only.
struct SparseSoftmaxConfig {
  std::int64_t sparsity_n = 2;          ///< keys kept in each group of sparsity_m; 0 = off
  std::int64_t sparsity_m = 4;          ///< 4 or 8
  std::int64_t num_sink_tokens = 0;     ///< first keys of a sequence that stay dense
  std::int64_t dense_window_size = 64;  ///< last keys up to the query's own position that stay dense
  MethodBackend backend = MethodBackend::kFused;

  bool operator==(const SparseSoftmaxConfig&) const = default;
};

/// Thresholds λ of skip-softmax by phase, ascending, as many in one phase as in the other. The first is applied, the
/// others are trials. A phase without any stays dense.
struct PhaseThresholds {
  std::vector<double> prefill;  ///< each 0 <= λ < 1
  std::vector<double> decode;

  bool operator==(const PhaseThresholds&) const = default;
};

/// Shares of blocks to skip, by phase; 0 leaves the phase dense.
struct PhaseTargets {
  std::optional<double> prefill;  ///< 0 <= target < 1
  std::optional<double> decode;

  bool operator==(const PhaseTargets&) const = default;
};

/// Where λ comes from: one for both phases, some per phase, or a calibration (and then targets).
using SkipThreshold = std::variant<double, PhaseThresholds, ThresholdCalibration>;

/// Skip-softmax (docs/semantics.md), in prefill and decode; in prefill together with N:M if sparsity_n > 0.
struct SkipSoftmaxConfig {
  SkipThreshold threshold = 0.1;
  PhaseTargets
      target_sparsity;    ///< for each phase that `threshold` has a calibration of; otherwise yet to be calibrated
  std::int64_t br = 128;  ///< query rows of a block
  std::int64_t bc = 128;  ///< keys of a block, a multiple of 8
  std::int64_t initial_disabled_steps = 0;  ///< carried to the export: other runtimes have steps
  bool collect_stats = false;               ///< the modules count blocks and pairs
  bool is_causal = true;                    ///< what the module's attention is
  std::int64_t sparsity_n = 0;              ///< keys kept in each group of sparsity_m; 0 = no N:M
  std::int64_t sparsity_m = 4;
  std::int64_t num_sink_tokens = 0;
  std::int64_t dense_window_size = 64;
  bool export_sparse_softmax = false;  ///< an export names the N:M part too
  MethodBackend backend = MethodBackend::kFused;

  bool operator==(const SkipSoftmaxConfig&) const = default;
};

/// Skip-softmax by replacing the softmax. The same parameters with upstream's thresholds as defaults.
struct FlashSkipSoftmaxConfig {
  SkipSoftmaxConfig parameters = {.threshold = PhaseThresholds{.prefill = {1e-3}, .decode = {1e-4}},
                                  .backend = MethodBackend::kEager};

  bool operator==(const FlashSkipSoftmaxConfig&) const = default;
};

/// Parameters of one method; one alternative per method. The names are in method_descriptor.h.
using MethodConfig = std::variant<SparseSoftmaxConfig, SkipSoftmaxConfig, FlashSkipSoftmaxConfig>;

/// The parameters of a skip-softmax method, or null for another one.
[[nodiscard]] inline const SkipSoftmaxConfig* skip_softmax_parameters(const MethodConfig& method) {
  if (const auto* flash = std::get_if<FlashSkipSoftmaxConfig>(&method)) return &flash->parameters;
  return std::get_if<SkipSoftmaxConfig>(&method);
}
[[nodiscard]] inline SkipSoftmaxConfig* skip_softmax_parameters(MethodConfig& method) {
  return const_cast<SkipSoftmaxConfig*>(skip_softmax_parameters(std::as_const(method)));
}

/// How the thresholds of skip-softmax are to be calibrated: an order to `modelopt calibrate`, which replaces the
/// thresholds of each enabled skip-softmax rule by what it found.
struct CalibrationConfig {
  PhaseTargets target_sparse_ratio = {.prefill = 0.5, .decode = 0.5};
  std::int64_t samples = 24;
  std::int64_t max_seqlen = 32768;   ///< tokens of the longest samples
  std::int64_t num_length_bins = 4;  ///< lengths that the samples are spread over
  std::int64_t chunk_size = 2048;    ///< tokens per prefill forward, a multiple of br; -1 = the whole prompt
  std::int64_t num_decode_tokens = 10;
  std::vector<double> threshold_trials = {1e-6, 5e-6, 1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3,
                                          1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 3e-1, 5e-1, 7e-1};  ///< ascending, 0 < λ < 1
  bool fit_logspace = false;  ///< the exponential is fitted to ln scale instead of scale
  std::string cache_dir;      ///< where counts are kept; empty = nowhere
  std::string data_dir;       ///< texts of the haystacks; empty = the text that ships with the program

  bool operator==(const CalibrationConfig&) const = default;
};

/// What the modules of a rule get: a method if the rule is enabled, dense attention otherwise.
struct Rule {
  bool enable = false;
  std::optional<MethodConfig> method;  ///< present if enabled

  bool operator==(const Rule&) const = default;
};

/// A rule for all attention modules whose name matches the pattern (pattern.h) or whose class name equals it.
struct PatternRule {
  std::string pattern;
  Rule rule;

  bool operator==(const PatternRule&) const = default;
};

/// Rules in the order of the file: the last one that matches a module replaces the earlier ones whole.
struct SparseAttentionConfig {
  std::string name;         ///< of a file that states one
  std::string description;  ///< one sentence of purpose
  std::vector<PatternRule> rules;
  Rule default_rule;  ///< for modules that no pattern matches
  std::optional<CalibrationConfig> calibration;

  bool operator==(const SparseAttentionConfig&) const = default;
};

}  // namespace modelopt::config
