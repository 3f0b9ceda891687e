#include "statistics_table.h"

#include <algorithm>
#include <utility>

#include "text_table.h"

namespace modelopt::cli {
namespace {

// Whether an enabled rule of skip-softmax has parameters that `is_so` holds for.
template <typename Predicate>
bool any_skip_softmax(const config::SparseAttentionConfig& config, Predicate is_so) {
  const auto holds = [&](const config::Rule& rule) {
    const auto* parameters = rule.enable && rule.method ? config::skip_softmax_parameters(*rule.method) : nullptr;
    return parameters != nullptr && is_so(*parameters);
  };
  return holds(config.default_rule) ||
         std::any_of(config.rules.begin(), config.rules.end(), [&](const auto& entry) { return holds(entry.rule); });
}

std::string percent(const std::optional<double>& share) { return share ? fixed(100.0 * *share, 1) : "-"; }

using Group = std::vector<eval::HeadGroupStatistics>::const_iterator;

// "0.1: 12.5, 0.5: 40.0": what each trial threshold would skip of the blocks of head groups [begin, end), in percent.
std::string trials_cell(Group begin, Group end, std::int64_t blocks_visible) {
  std::string cell;
  for (std::size_t trial = 0; trial < begin->trials.size() && blocks_visible > 0; ++trial) {
    std::int64_t skipped = 0;
    for (Group group = begin; group != end; ++group) skipped += group->trials[trial].blocks_skipped;
    cell += str(cell.empty() ? "" : ", ", begin->trials[trial].threshold, ": ",
                percent(static_cast<double>(skipped) / static_cast<double>(blocks_visible)));
  }
  return cell.empty() ? "-" : cell;
}

// The head groups [begin, end) of one module in one phase.
void add_module(TextTable& table, Group begin, Group end, bool with_trials) {
  eval::AttentionCounts sum;
  double least = 1.0, most = 0.0;
  for (Group group = begin; group != end; ++group) {
    sum += group->counts;
    const double skipped = group->counts.skipped_fraction().value_or(0.0);
    least = std::min(least, skipped);
    most = std::max(most, skipped);
  }
  std::vector<std::string> cells = {begin->module,
                                    std::string(to_string(begin->phase)),
                                    std::to_string(sum.blocks_visible),
                                    percent(sum.skipped_fraction()),
                                    percent(least) + " to " + percent(most),
                                    percent(sum.kept_fraction())};
  if (with_trials) cells.push_back(trials_cell(begin, end, sum.blocks_visible));
  table.add_row(std::move(cells));
}

// How often the calibration had to answer for what it has not measured.
std::string thresholds_line(const eval::AttentionStatistics& statistics, attention::Phase phase) {
  const attention::ThresholdCounts& counts = statistics.thresholds(phase);
  if (counts.calibrated == 0) return "";
  return str(to_string(phase), ": ", counts.calibrated, " calibrated thresholds, ", counts.out_of_range,
             " outside of what was measured, ", counts.clamped, " clamped\n");
}

}  // namespace

void add_stats_option(CLI::App& command, bool& wanted) {
  command.add_flag("--stats", wanted, "show what each attention module skipped and kept");
}

bool asks_for_statistics(const config::SparseAttentionConfig& config) {
  return any_skip_softmax(config, [](const auto& parameters) { return parameters.collect_stats; });
}

bool has_skip_softmax(const config::SparseAttentionConfig& config) {
  return any_skip_softmax(config, [](const auto&) { return true; });
}

std::string statistics_table(const eval::AttentionStatistics& statistics) {
  if (statistics.empty()) return "";
  const auto& groups = statistics.groups();
  const bool with_trials =
      std::any_of(groups.begin(), groups.end(), [](const auto& group) { return !group.trials.empty(); });
  std::vector<Column> columns = {{"module"},
                                 {"phase"},
                                 {"blocks", Align::kRight},
                                 {"skipped %", Align::kRight},
                                 {"by head group", Align::kRight},
                                 {"kept pairs %", Align::kRight}};
  if (with_trials) columns.push_back({"trial thresholds: skipped %"});
  TextTable table(std::move(columns));
  for (auto begin = groups.begin(), end = begin; begin != groups.end(); begin = end) {
    end = std::find_if(begin, groups.end(), [&](const eval::HeadGroupStatistics& group) {
      return group.module != begin->module || group.phase != begin->phase;
    });
    add_module(table, begin, end, with_trials);
  }
  return table.render() + thresholds_line(statistics, attention::Phase::kPrefill) +
         thresholds_line(statistics, attention::Phase::kDecode);
}

}  // namespace modelopt::cli
