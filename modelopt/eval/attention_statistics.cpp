#include <modelopt/eval/attention_statistics.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include <modelopt/error.h>

namespace modelopt::eval {
namespace {

std::optional<double> share(std::int64_t part, std::int64_t whole) {
  if (whole == 0) return std::nullopt;
  return static_cast<double>(part) / static_cast<double>(whole);
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
    // [key heads, 4]
    const at::Tensor sums = module.stats.sum(0).unflatten(0, {key_heads, -1}).sum(1).to(at::kCPU).contiguous();
    const auto* values = sums.const_data_ptr<std::int64_t>();
    for (std::int64_t key_head = 0; key_head < key_heads; ++key_head, values += 4)
      counts_of(module.module, phase, key_head) += {values[0], values[1], values[2], values[3]};
  }
}

void AttentionStatistics::add(attention::Phase phase, const attention::ThresholdCounts& counts) {
  (phase == attention::Phase::kPrefill ? prefill_thresholds_ : decode_thresholds_) += counts;
}

AttentionStatistics& AttentionStatistics::operator+=(const AttentionStatistics& other) {
  for (const HeadGroupStatistics& group : other.groups_)
    counts_of(group.module, group.phase, group.key_head) += group.counts;
  prefill_thresholds_ += other.prefill_thresholds_;
  decode_thresholds_ += other.decode_thresholds_;
  return *this;
}

AttentionCounts& AttentionStatistics::counts_of(const std::string& module, attention::Phase phase,
                                                std::int64_t key_head) {
  const auto known = std::find_if(groups_.begin(), groups_.end(), [&](const HeadGroupStatistics& group) {
    return group.key_head == key_head && group.phase == phase && group.module == module;
  });
  if (known != groups_.end()) return known->counts;
  return groups_.emplace_back(HeadGroupStatistics{module, phase, key_head, {}}).counts;
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
    json.push_back({{"module", group.module},
                    {"phase", to_string(group.phase)},
                    {"key_head", group.key_head},
                    {"blocks_visible", group.counts.blocks_visible},
                    {"blocks_skipped", group.counts.blocks_skipped},
                    {"pairs_visible", group.counts.pairs_visible},
                    {"pairs_attended", group.counts.pairs_attended},
                    {"skipped_fraction", nullable(group.counts.skipped_fraction())},
                    {"kept_fraction", nullable(group.counts.kept_fraction())}});
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
