// --export: where a command writes the model that it has sparsified.
#pragma once

#include <CLI/CLI.hpp>

#include <string>

#include <modelopt/eval/evaluate.h>

#include "common_options.h"
#include "model_session.h"

namespace modelopt::cli {

struct ExportTarget {
  std::string directory;  ///< empty: nothing is exported
  bool overwrite = false;
};

/// --export and --overwrite; `configuration` completes "a HuggingFace directory that carries …".
void add_export_options(CLI::App& command, ExportTarget& target, const std::string& configuration);

/// Before any work. Throws UsageError for --overwrite alone, and what check_export_target() throws.
void check_export(const ExportTarget& target, const std::string& model);

/// Applies `config` and writes the directory, with a progress bar.
void write_export(const ModelSession& session, const eval::NamedConfig& config, const ExportTarget& target,
                  const CommonOptions& common);

}  // namespace modelopt::cli
