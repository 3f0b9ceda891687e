// Sparse configurations on the command line.
#pragma once

#include <CLI/CLI.hpp>

#include <string>
#include <vector>

#include <modelopt/eval/evaluate.h>

#include "common_options.h"

namespace modelopt::cli {

struct ConfigOptions {
  std::vector<std::string> names;        ///< --config NAME|FILE
  std::string upstream_name;             ///< --sparse_attn, of upstream's example script
  std::vector<std::string> assignments;  ///< --set
  bool dense = false;                    ///< --dense: ignore what the checkpoint carries

  [[nodiscard]] bool names_any() const { return !names.empty() || !upstream_name.empty(); }
};

/// Which of the options a command takes.
enum class ConfigUse { kOne, kOneRequired, kMany };

void add_config_options(CLI::App& command, ConfigOptions& options, ConfigUse use);

/// The configurations that are named, with --set and --backend applied, validated; empty if none is named.
/// Throws UsageError for options that contradict each other, ConfigError for what validation refuses.
[[nodiscard]] std::vector<eval::NamedConfig> named_configs(const ConfigOptions& options, const CommonOptions& common);

/// --set and --backend as assignments (modelopt/config/overrides.h).
[[nodiscard]] std::vector<std::string> overrides(const ConfigOptions& options, const CommonOptions& common);

}  // namespace modelopt::cli
