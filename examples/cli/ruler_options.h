// RULER prompts on the command line, for `calibrate` and `eval --ruler`.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include <modelopt/calibration/ruler_sample.h>
#include <modelopt/eval/ruler_eval.h>

#include "model_session.h"

namespace modelopt::cli {

/// --haystack text|noise; empty: text.
CLI::Option* add_haystack_option(CLI::App& command, std::string& haystack);

/// Throws UsageError for noise beside a text; `path_option` names the one that gives `path`.
void check_haystack(const std::string& haystack, const std::string& path, const std::string& path_option);

/// "noise", or where the text is from: `path`, or "shipped".
[[nodiscard]] std::string haystack_name(const std::string& haystack, const std::string& path);

/// Prompts over sentences of noise, or the text of `path` (a file, or a directory of *.txt); empty: the text that the
/// program carries.
[[nodiscard]] calibration::RulerGenerator ruler_generator(const ModelSession& session, const std::string& haystack,
                                                          const std::string& path);

/// Tasks by name. Throws UsageError for a name that is none, or is there twice.
[[nodiscard]] std::vector<calibration::RulerTask> ruler_tasks(const std::vector<std::string>& names);

/// Those that end an answer, by generation_config.json.
[[nodiscard]] std::vector<std::int64_t> stop_tokens(const ModelSession& session);

/// Runs them with a progress bar.
[[nodiscard]] std::vector<eval::RulerResult> run_ruler(const ModelSession& session,
                                                       const calibration::RulerGenerator& generator,
                                                       const std::vector<eval::NamedConfig>& configs,
                                                       eval::RulerOptions options, const CommonOptions& common);

/// A table per length: a row for each task, a score for dense and for each configuration, and what was skipped.
[[nodiscard]] std::string ruler_table(const std::vector<eval::RulerResult>& results);

/// What the modules skipped and kept with this configuration, for each length over all tasks.
[[nodiscard]] std::string ruler_statistics(const std::vector<eval::RulerResult>& results, const std::string& config);

/// [{"config", "task", "seq_len", …}, …], and after them the same over all tasks of a length with "task": "all",
/// without "prompts" and with "statistics".
[[nodiscard]] nlohmann::ordered_json ruler_data(const std::vector<eval::RulerResult>& results);

}  // namespace modelopt::cli
