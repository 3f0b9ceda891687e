// What attention modules attended to and skipped: counts by module, head group and phase.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <modelopt/attention/attention_slot.h>
#include <modelopt/models/causal_lm.h>

namespace modelopt::eval {

/// Sums of the operator's statistics: blocks of skip-softmax, and pairs of query and key.
struct AttentionCounts {
  std::int64_t blocks_visible = 0;
  std::int64_t blocks_skipped = 0;
  std::int64_t pairs_visible = 0;
  std::int64_t pairs_attended = 0;

  AttentionCounts& operator+=(const AttentionCounts& other);
  /// Skipped / visible blocks; none without visible ones.
  [[nodiscard]] std::optional<double> skipped_fraction() const;
  /// Attended / visible pairs; none without visible ones.
  [[nodiscard]] std::optional<double> kept_fraction() const;

  bool operator==(const AttentionCounts&) const = default;
};

/// Blocks that a threshold which was not applied would have skipped.
struct TrialSkips {
  double threshold = 0.0;
  std::int64_t blocks_skipped = 0;

  bool operator==(const TrialSkips&) const = default;
};

/// One head group (the query heads that share a key head) of one module in one phase.
struct HeadGroupStatistics {
  std::string module;  ///< e.g. "model.layers.3.self_attn"
  attention::Phase phase = attention::Phase::kPrefill;
  std::int64_t key_head = 0;
  AttentionCounts counts;
  std::vector<TrialSkips> trials;  ///< of the rule's trial thresholds, in their order; of counts.blocks_visible each

  bool operator==(const HeadGroupStatistics&) const = default;
};

class AttentionStatistics {
 public:
  /// Adds what a forward returned (models::ModelOutput::stats), summed over its batch and over the query heads of each
  /// of `key_heads` key heads.
  void add(attention::Phase phase, const std::vector<models::ModuleStats>& modules, std::int64_t key_heads);

  /// Adds how often thresholds were taken from a calibration, all modules together (threshold_counts()).
  void add(attention::Phase phase, const attention::ThresholdCounts& counts);
  /// Adds what another run has shown.
  AttentionStatistics& operator+=(const AttentionStatistics& other);

  /// In the order in which they came: by phase, then module, then key head.
  [[nodiscard]] const std::vector<HeadGroupStatistics>& groups() const { return groups_; }
  [[nodiscard]] AttentionCounts total() const;
  [[nodiscard]] AttentionCounts total(attention::Phase phase) const;
  [[nodiscard]] const attention::ThresholdCounts& thresholds(attention::Phase phase) const;
  [[nodiscard]] bool empty() const { return groups_.empty(); }

 private:
  HeadGroupStatistics& group_of(const std::string& module, attention::Phase phase, std::int64_t key_head);

  std::vector<HeadGroupStatistics> groups_;
  attention::ThresholdCounts prefill_thresholds_, decode_thresholds_;
};

/// [{"module": …, "phase": "prefill" | "decode", "key_head": …, "blocks_visible": …, "blocks_skipped": …,
/// "pairs_visible": …, "pairs_attended": …, "skipped_fraction": …, "kept_fraction": …, "trials": [{"threshold": …,
/// "blocks_skipped": …, "skipped_fraction": …}, …]}, …]; fractions may be null.
[[nodiscard]] nlohmann::ordered_json to_json(const AttentionStatistics& statistics);

/// {"prefill": {"calibrated": …, "out_of_range": …, "clamped": …}, "decode": {…}}
[[nodiscard]] nlohmann::ordered_json thresholds_to_json(const AttentionStatistics& statistics);

}  // namespace modelopt::eval
