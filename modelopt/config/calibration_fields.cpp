#include <limits>

#include <modelopt/config/field_access.h>
#include <modelopt/config/method_descriptor.h>

namespace modelopt::config {
namespace {

using Config = CalibrationConfig;
using CalibrationField = Field<CalibrationConfig>;

constexpr std::int64_t kMaxCount = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMinLength = 1024;  // the smallest max_seqlen of upstream

CalibrationField field(CalibrationField field, auto member) {
  return member_field(
      std::move(field), [member](auto& config) -> auto& { return config.*member; });
}

}  // namespace

const std::vector<CalibrationField>& calibration_fields() {
  static const std::vector<CalibrationField> fields = {
      field({.name = "target_sparse_ratio",
             .title = "Target sparsity",
             .description = "Share of blocks to skip, for both phases or by phase; 0 leaves a phase uncalibrated and "
                            "dense. A rule's target_sparsity goes before it.",
             .domain = targets_by_phase()},
            &Config::target_sparse_ratio),
      field({.name = "samples",
             .title = "Samples",
             .description = "Prompts of known answer, spread over tasks and lengths.",
             .domain = integers(1, kMaxCount)},
            &Config::samples),
      field({.name = "max_seqlen",
             .title = "Longest sample",
             .description = "Tokens of the longest samples; not beyond the model's context.",
             .domain = integers(kMinLength, kMaxCount)},
            &Config::max_seqlen),
      field({.name = "num_length_bins",
             .title = "Lengths",
             .description = "Lengths that the samples are spread over.",
             .domain = integers(1, kMaxCount)},
            &Config::num_length_bins),
      field(
          {.name = "chunk_size",
           .title = "Prefill chunk",
           .description = "Prompt tokens per forward, a multiple of br; -1 takes the prompt whole. The counts are the "
                          "same.",
           .domain = positive_or_minus_one(kMaxCount, "the whole prompt")},
          &Config::chunk_size),
      field({.name = "num_decode_tokens",
             .title = "Decode steps",
             .description = "Steps per sample that calibrate decode, after a dense prefill.",
             .domain = integers(1, kMaxCount)},
            &Config::num_decode_tokens),
      field({.name = "threshold_trials",
             .title = "Trials",
             .description = "Thresholds λ whose skipped blocks are counted.",
             .domain = threshold_lists(),
             .nullable = true},
            &Config::threshold_trials),
      field({.name = "fit_logspace",
             .title = "Fit logarithms",
             .description = "The exponential form is fitted to ln scale instead of scale.",
             .domain = booleans()},
            &Config::fit_logspace),
      field({.name = "cache_dir",
             .title = "Cache",
             .description = "Directory where counts are kept, so that a calibration that was broken off resumes.",
             .domain = strings(),
             .nullable = true},
            &Config::cache_dir),
      field({.name = "data_dir",
             .title = "Texts",
             .description = "Text file, or directory searched for *.txt, for haystacks; absent, the text that ships "
                            "with the program.",
             .domain = strings(),
             .nullable = true},
            &Config::data_dir),
  };
  return fields;
}

}  // namespace modelopt::config
