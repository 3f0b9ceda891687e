#include <modelopt/checkpoint/export/saved_sparsity.h>

#include <nlohmann/json.hpp>
#include <utility>

#include <modelopt/checkpoint/export/config_groups.h>
#include <modelopt/checkpoint/export/module_groups.h>
#include <modelopt/checkpoint/model_directory.h>
#include <modelopt/config/parse.h>
#include <modelopt/error.h>
#include <modelopt/sparsify/attention_modules.h>
#include <modelopt/sparsify/slot_guard.h>
#include <modelopt/util/file.h>
#include <modelopt/util/ordered_json.h>
#include <modelopt/util/version.h>

namespace modelopt::checkpoint {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kGroupsKey = "config_groups";
constexpr const char* kProducerKey = "producer";

// The value of `sparse_attention_config`; null if there is none.
Json read_sparsity_json(const std::filesystem::path& path) {
  const Json config = parse_ordered_json(read_file(path), path.string());
  MODELOPT_CHECK(config.is_object(), DataError, path.string(), ": $: is ", config.type_name(), ", expected an object");
  const auto found = config.find(kSparsityKey);
  return found == config.end() ? Json() : *found;
}

// Groups hold only what is valid, so that an invalid configuration is the fault of the overrides.
RestoredSparsity restore_groups(torch::nn::Module& model, const Json& sparsity, const std::string& origin,
                                const SparsifyOptions& options, const std::vector<std::string>& overrides) {
  RestoredSparsity restored{.config = config_of(read_config_groups(sparsity, origin), model), .report = {}};
  if (!overrides.empty())
    restored.config = config::parse_config(config::to_json(restored.config).dump(), origin, overrides);
  restored.report = sparsify(model, restored.config, options);
  return restored;
}

// Whoever edits the groups of a file that has the exact state too would otherwise see no effect.
void check_groups(const Json& sparsity, const SparsifyReport& report, const std::string& origin) {
  for (const auto& [key, value] : sparsity.items())
    MODELOPT_CHECK(key == kGroupsKey || key == kProducerKey || key == kSavedStateKey, DataError, origin, ": $.",
                   kSparsityKey, ": the key ", key, " is not understood");
  const auto groups = sparsity.find(kGroupsKey);
  if (groups == sparsity.end()) return;
  // of whatever order of keys: tools sort them
  MODELOPT_CHECK(nlohmann::json(*groups) == nlohmann::json(to_json(group_modules(report))), DataError, origin, ": $.",
                 kSparsityKey, ": ", kGroupsKey, " say something else than ", kSavedStateKey,
                 ", expected both as they were written; without ", kSavedStateKey, " the groups hold");
}

// The configuration without what means something on the machine that calibrated alone.
config::SparseAttentionConfig without_paths(config::SparseAttentionConfig config) {
  if (config.calibration) {
    config.calibration->cache_dir.clear();
    config.calibration->data_dir.clear();
  }
  return config;
}

}  // namespace

Json to_sparse_attention_config(const config::SparseAttentionConfig& config, const SparsifyReport& report) {
  Json result;
  result[kGroupsKey] = to_json(group_modules(report));
  result[kProducerKey] = {{"name", "modelopt"}, {"version", version()}};
  result[std::string(kSavedStateKey)] = sparsity_state(without_paths(config), report);
  return result;
}

bool carries_sparsity(const std::filesystem::path& directory) {
  return !read_sparsity_json(model_file(directory, "config.json")).is_null();
}

std::optional<RestoredSparsity> restore_saved_sparsity(torch::nn::Module& model, const std::filesystem::path& directory,
                                                       const SparsifyOptions& options,
                                                       const std::vector<std::string>& overrides) {
  const std::filesystem::path path = model_file(directory, "config.json");
  const Json sparsity = read_sparsity_json(path);
  if (sparsity.is_null()) return std::nullopt;
  const auto state = sparsity.find(kSavedStateKey);
  if (!sparsity.is_object() || state == sparsity.end())
    return restore_groups(model, sparsity, path.string(), options, overrides);
  const std::string where = str(path.string(), ": $.", kSparsityKey, ".", kSavedStateKey);
  SlotGuard guard(attention_modules(model));
  RestoredSparsity restored = restore_sparsity_state(model, *state, where, options, {});
  check_groups(sparsity, restored.report, path.string());
  if (!overrides.empty()) restored = restore_sparsity_state(model, *state, where, options, overrides);
  guard.keep();
  return restored;
}

}  // namespace modelopt::checkpoint
