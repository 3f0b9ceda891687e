#include "config_options.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <modelopt/config/enumeration.h>
#include <modelopt/config/parse.h>
#include <modelopt/config/presets.h>

#include "exit_code.h"

namespace modelopt::cli {
namespace {

// Names of upstream's example script to presets of ours.
std::string preset_of(const std::string& upstream_name) {
  const std::array<std::pair<std::string_view, const presets::Preset*>, 4> known = {{
      {"sparse_softmax", &presets::SPARSE_SOFTMAX_DEFAULT},
      {"skip_softmax_calib", &presets::SKIP_SOFTMAX_CALIB},
      {"skip_softmax_calib_sparse24", &presets::SKIP_SOFTMAX_CALIB_SPARSE24},
      {"skip_softmax_triton_calib", &presets::SKIP_SOFTMAX_TRITON_CALIB},
  }};
  std::vector<std::string_view> names;
  for (const auto& [name, preset] : known) {
    if (name == upstream_name) return std::string(preset->name);
    names.push_back(name);
  }
  throw UsageError(str("--sparse_attn ", upstream_name, ": expected ", config::one_of(names)));
}

void check_contradictions(const ConfigOptions& options, const CommonOptions& common) {
  MODELOPT_CHECK(options.names.empty() || options.upstream_name.empty(), UsageError,
                 "--config and --sparse_attn both name a configuration, expected one of them");
  if (!options.dense) return;
  MODELOPT_CHECK(!options.names_any(), UsageError,
                 "--dense runs without sparsity, and --config or --sparse_attn asks for it");
  MODELOPT_CHECK(options.assignments.empty(), UsageError,
                 "--dense runs without sparsity, so --set has nothing to change");
  MODELOPT_CHECK(common.backend == "auto", UsageError, "--dense runs without sparsity, so --backend ", common.backend,
                 " has no method to choose for");
}

}  // namespace

void add_config_options(CLI::App& command, ConfigOptions& options, ConfigUse use) {
  const std::string group = "Sparsity";
  CLI::Option* config =
      command
          .add_option("--config", options.names,
                      use == ConfigUse::kMany ? "preset or file; may be given several times" : "preset or file")
          ->type_name("NAME|FILE")
          ->group(group);
  // A single --config takes one value; a second one is an error of the parser, not a silent replacement.
  config->expected(1)->type_size(1);
  if (use == ConfigUse::kMany) config->take_all();
  command
      .add_option("--sparse_attn", options.upstream_name,
                  "upstream's name for a preset: sparse_softmax, skip_softmax_calib, …")
      ->group(group);
  command
      .add_option("--set", options.assignments,
                  "change a field of every enabled pattern, or of one: 'PATTERN'.FIELD=VALUE")
      ->type_name("FIELD=VALUE")
      ->expected(1)
      ->take_all()
      ->group(group);
  if (use != ConfigUse::kOneRequired)
    command.add_flag("--dense", options.dense, "ignore the sparsity that the checkpoint carries")->group(group);
}

std::vector<std::string> overrides(const ConfigOptions& options, const CommonOptions& common) {
  std::vector<std::string> assignments = options.assignments;
  if (common.backend != "auto") assignments.push_back("backend=" + common.backend);
  return assignments;
}

std::vector<eval::NamedConfig> named_configs(const ConfigOptions& options, const CommonOptions& common) {
  check_contradictions(options, common);
  std::vector<std::string> names = options.names;
  if (!options.upstream_name.empty()) names.push_back(preset_of(options.upstream_name));
  std::vector<eval::NamedConfig> configs;
  for (const auto& name : names) {
    const bool repeated =
        std::any_of(configs.begin(), configs.end(), [&](const auto& other) { return other.name == name; });
    MODELOPT_CHECK(!repeated, UsageError, "--config ", name, ": is given twice");
    configs.push_back({name, config::load_config(name, overrides(options, common))});
  }
  return configs;
}

}  // namespace modelopt::cli
