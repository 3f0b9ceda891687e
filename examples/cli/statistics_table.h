// What attention modules skipped and kept, as a table.
#pragma once

#include <CLI/CLI.hpp>

#include <string>
#include <vector>

#include <modelopt/eval/attention_statistics.h>
#include <modelopt/eval/evaluate.h>

namespace modelopt::cli {

/// --stats.
void add_stats_option(CLI::App& command, bool& wanted);

/// Whether a rule of the configuration says collect_stats.
[[nodiscard]] bool asks_for_statistics(const config::SparseAttentionConfig& config);
/// Whether a rule of the configuration is a skip-softmax method.
[[nodiscard]] bool has_skip_softmax(const config::SparseAttentionConfig& config);

/// A row for each module and phase, with the range over head groups and what trial thresholds would skip, and below a
/// line for each phase with calibrated thresholds; empty without statistics.
[[nodiscard]] std::string statistics_table(const eval::AttentionStatistics& statistics);

}  // namespace modelopt::cli
