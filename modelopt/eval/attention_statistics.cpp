#include <modelopt/eval/attention_statistics.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include <modelopt/error.h>

namespace modelopt::eval {
namespace {

std::optional<double> share(std::int64_t part, std::int64_t whole) {
  if (whole == 0) return std::nullopt;
  return static_cast<double>(part) / static_cast<double>(whole);
}

// int64 [key heads, n] on the CPU of counters [B, heads, n].
at::Tensor sum_by_key_head(const at::Tensor& counters, std::int64_t key_heads) {
  return counters.sum(0).unflatten(0, {key_heads, -1}).sum(1).to(at::kCPU).contiguous();
}

void add_trial(std::vector<TrialSkips>& trials, const TrialSkips& more) {
  const auto known = std::find_if(trials.begin(), trials.end(),
                                  [&](const TrialSkips& trial) { return trial.threshold == more.threshold; });
  if (known == trials.end())
    trials.push_back(more);
  else
    known->blocks_skipped += more.blocks_skipped;
}

}  // namespace

AttentionCounts& AttentionCounts::operator+=(const AttentionCounts& other) {
  blocks_visible += other.blocks_visible;
  blocks_skipped += other.blocks_skipped;
  pairs_visible += other.pairs_visible;
  pairs_attended += other.pairs_attended;
  return *this;
}

std::optional<double> AttentionCounts::skipped_fraction() const { return share(blocks_skipped, blocks_visible); }
std::optional<double> AttentionCounts::kept_fraction() const { return share(pairs_attended, pairs_visible); }

void AttentionStatistics::add(attention::Phase phase, const std::vector<models::ModuleStats>& modules,
                              std::int64_t key_heads) {
  for (const models::ModuleStats& module : modules) {
    MODELOPT_CHECK(key_heads > 0 && module.stats.size(1) % key_heads == 0, InvalidArgument, module.module, " has ",
                   module.stats.size(1), " heads, expected a multiple of the ", key_heads, " key heads");
    const at::Tensor sums = sum_by_key_head(module.stats, key_heads);
    const auto counts = sums.accessor<std::int64_t, 2>();
    for (std::int64_t key_head = 0; key_head < key_heads; ++key_head) {
      const auto row = counts[key_head];
      group_of(module.module, phase, key_head).counts += {row[0], row[1], row[2], row[3]};
    }
    if (module.trials.thresholds.empty()) continue;
    const at::Tensor skipped = sum_by_key_head(module.trials.skipped, key_heads);
    for (std::int64_t key_head = 0; key_head < key_heads; ++key_head) {
      const auto* of_trials = skipped.const_data_ptr<std::int64_t>() + key_head * skipped.size(1);
      for (const double threshold : module.trials.thresholds)
        add_trial(group_of(module.module, phase, key_head).trials, {threshold, *of_trials++});
    }
  }
}

void AttentionStatistics::add(attention::Phase phase, const attention::ThresholdCounts& counts) {
  (phase == attention::Phase::kPrefill ? prefill_thresholds_ : decode_thresholds_) += counts;
}

AttentionStatistics& AttentionStatistics::operator+=(const AttentionStatistics& other) {
  for (const HeadGroupStatistics& group : other.groups_) {
    HeadGroupStatistics& sum = group_of(group.module, group.phase, group.key_head);
    sum.counts += group.counts;
    for (const TrialSkips& trial : group.trials) add_trial(sum.trials, trial);
  }
  prefill_thresholds_ += other.prefill_thresholds_;
  decode_thresholds_ += other.decode_thresholds_;
  return *this;
}

HeadGroupStatistics& AttentionStatistics::group_of(const std::string& module, attention::Phase phase,
                                                   std::int64_t key_head) {
  const auto known = std::find_if(groups_.begin(), groups_.end(), [&](const HeadGroupStatistics& group) {
    return group.key_head == key_head && group.phase == phase && group.module == module;
  });
  if (known != groups_.end()) return *known;
  return groups_.emplace_back(HeadGroupStatistics{module, phase, key_head, {}, {}});
}

AttentionCounts AttentionStatistics::total() const {
  AttentionCounts sum;
  for (const HeadGroupStatistics& group : groups_) sum += group.counts;
  return sum;
}

AttentionCounts AttentionStatistics::total(attention::Phase phase) const {
  AttentionCounts sum;
  for (const HeadGroupStatistics& group : groups_)
    if (group.phase == phase) sum += group.counts;
  return sum;
}

const attention::ThresholdCounts& AttentionStatistics::thresholds(attention::Phase phase) const {
  return phase == attention::Phase::kPrefill ? prefill_thresholds_ : decode_thresholds_;
}

nlohmann::ordered_json to_json(const AttentionStatistics& statistics) {
  const auto nullable = [](const std::optional<double>& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
  };
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const HeadGroupStatistics& group : statistics.groups()) {
    nlohmann::ordered_json trials = nlohmann::ordered_json::array();
    for (const TrialSkips& trial : group.trials)
      trials.push_back({{"threshold", trial.threshold},
                        {"blocks_skipped", trial.blocks_skipped},
                        {"skipped_fraction", nullable(share(trial.blocks_skipped, group.counts.blocks_visible))}});
    json.push_back({{"module", group.module},
                    {"phase", to_string(group.phase)},
                    {"key_head", group.key_head},
                    {"blocks_visible", group.counts.blocks_visible},
                    {"blocks_skipped", group.counts.blocks_skipped},
                    {"pairs_visible", group.counts.pairs_visible},
                    {"pairs_attended", group.counts.pairs_attended},
                    {"skipped_fraction", nullable(group.counts.skipped_fraction())},
                    {"kept_fraction", nullable(group.counts.kept_fraction())},
                    {"trials", std::move(trials)}});
  }
  return json;
}

nlohmann::ordered_json thresholds_to_json(const AttentionStatistics& statistics) {
  nlohmann::ordered_json json;
  for (const auto phase : {attention::Phase::kPrefill, attention::Phase::kDecode}) {
    const attention::ThresholdCounts& counts = statistics.thresholds(phase);
    json[std::string(to_string(phase))] = {
        {"calibrated", counts.calibrated}, {"out_of_range", counts.out_of_range}, {"clamped", counts.clamped}};
  }
  return json;
}

}  // namespace modelopt::eval
