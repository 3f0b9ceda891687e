// The sparsity that a checkpoint carries: `sparse_attention_config` in its config.json.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <torch/nn/module.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <modelopt/config/sparse_config.h>
#include <modelopt/sparsify/sparsify.h>

namespace modelopt::checkpoint {

/// The one key of ours inside `sparse_attention_config`. It holds the exact state; other readers ignore it.
inline constexpr std::string_view kSavedStateKey = "modelopt_cpp";

/// What a checkpoint says.
struct SavedSparsity {
  std::string config_json;  ///< a configuration as parse_config takes it
  std::string origin;       ///< file and key, for messages
  /// What each module had: {"method": …, "parameters": {…}} as JSON text, or "null" for dense. Empty where other
  /// software wrote the checkpoint.
  std::map<std::string, std::string> modules;
};

/// `sparse_attention_config` for config.json: one group of `config_groups` per parameter set, `producer`, and the exact
/// state. `report` is what sparsify() returned for `config`.
[[nodiscard]] nlohmann::ordered_json to_sparse_attention_config(const config::SparseAttentionConfig& config,
                                                                const SparsifyReport& report);

/// Sentences on what NVIDIA Model-Optimizer's reader would do otherwise with such a checkpoint. It applies the first
/// N:M group to every attention module and does not look at `ignore`. Empty: it sees the same.
[[nodiscard]] std::vector<std::string> upstream_differences(const SparsifyReport& report);

/// Whether DIRECTORY/config.json has a `sparse_attention_config`, whatever it says.
[[nodiscard]] bool carries_sparsity(const std::filesystem::path& directory);

/// Reads `sparse_attention_config` of DIRECTORY/config.json; nothing if there is none. The exact state is preferred;
/// without it the groups are translated for the attention modules of `model`. Throws DataError for what is malformed,
/// for an algorithm or key that cannot be honoured (never a guess), and for modules that the model does not have.
[[nodiscard]] std::optional<SavedSparsity> read_saved_sparsity(const std::filesystem::path& directory,
                                                               torch::nn::Module& model);

struct RestoredSparsity {
  config::SparseAttentionConfig config;
  SparsifyReport report;
};

/// Applies it. `overrides` as for parse_config. Without them throws DataError for an invalid configuration, and if the
/// modules come out otherwise than when they were saved; with them ConfigError; and what sparsify() throws.
RestoredSparsity restore_sparsity(torch::nn::Module& model, const SavedSparsity& saved,
                                  const SparsifyOptions& options = {}, const std::vector<std::string>& overrides = {});

}  // namespace modelopt::checkpoint
