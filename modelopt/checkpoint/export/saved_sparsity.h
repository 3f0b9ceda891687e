// The sparsity that a checkpoint carries: `sparse_attention_config` in its config.json.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <torch/nn/module.h>

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <modelopt/config/sparse_config.h>
#include <modelopt/sparsify/sparsify.h>
#include <modelopt/sparsify/sparsity_state.h>

namespace modelopt::checkpoint {

/// The one key of ours inside `sparse_attention_config`. It holds the exact state (sparsity_state.h); other readers
/// ignore it.
inline constexpr std::string_view kSavedStateKey = "modelopt_cpp";

/// `sparse_attention_config` for config.json: `config_groups` for other readers (module_groups.h), `producer`, and the
/// exact state, in which the calibration block names no paths. `report` is what sparsify() returned for `config`.
[[nodiscard]] nlohmann::ordered_json to_sparse_attention_config(const config::SparseAttentionConfig& config,
                                                                const SparsifyReport& report);

/// Whether DIRECTORY/config.json has a `sparse_attention_config`, whatever it says.
[[nodiscard]] bool carries_sparsity(const std::filesystem::path& directory);

/// Applies `sparse_attention_config` of DIRECTORY/config.json; nothing if there is none. The exact state is taken
/// where there is one, and groups beside it must be those that were written with it; without it, groups of any
/// generation (config_groups.h) are translated for the attention modules of `model`.
/// `overrides` (config/overrides.h) change the configuration first. Throws DataError for what is malformed or cannot be
/// honoured (never a guess) and for modules that the model does not have; with overrides ConfigError for what they make
/// invalid; and what sparsify() throws. If it throws, nothing has changed.
std::optional<RestoredSparsity> restore_saved_sparsity(torch::nn::Module& model, const std::filesystem::path& directory,
                                                       const SparsifyOptions& options = {},
                                                       const std::vector<std::string>& overrides = {});

}  // namespace modelopt::checkpoint
