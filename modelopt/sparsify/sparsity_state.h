// The sparsified state of a model as JSON: saved beside the weights, it makes the same model sparse in the same way.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <torch/nn/module.h>

#include <filesystem>
#include <string>
#include <vector>

#include <modelopt/config/sparse_config.h>
#include <modelopt/sparsify/report.h>
#include <modelopt/sparsify/sparsify.h>

namespace modelopt {

/// Rises with every change that an older version cannot read.
inline constexpr int kSparsityStateFormat = 1;

/// {"format": 1, "version": "0.1.0", "config": {…}, "methods": [{"method": …, "parameters": {…}}, …],
/// "modules": {"model.layers.0.self_attn": {"class": "LlamaAttention", "method": 0}, …: {…, "method": null}}}
///
/// `config` is the configuration as it was given, with the calibrations that its rules hold (form, a, b, ranges, R²,
/// data hash, seed). `methods` are the methods that it came to, each once; a module has one of them or null: dense.
/// `report` is what sparsify() returned for `config`.
[[nodiscard]] nlohmann::ordered_json sparsity_state(const config::SparseAttentionConfig& config,
                                                    const SparsifyReport& report);

struct RestoredSparsity {
  config::SparseAttentionConfig config;
  SparsifyReport report;
};

/// Applies a state: the model computes bit for bit what it computed when the state was saved, on the same machine and
/// backend. `where` says where the state comes from and begins each message. `overrides` (config/overrides.h) change
/// the configuration first. Throws DataError for a state that is malformed or invalid, of a newer version, or of other
/// modules than the model's, and if a module comes out otherwise than it was saved; with overrides ConfigError for what
/// they make invalid; and what sparsify() throws. If it throws, nothing has changed.
RestoredSparsity restore_sparsity_state(torch::nn::Module& model, const nlohmann::ordered_json& state,
                                        const std::string& where, const SparsifyOptions& options = {},
                                        const std::vector<std::string>& overrides = {});

/// Writes the state as a file, whole or not at all. Throws DataError.
void save_sparsity_state(const std::filesystem::path& path, const config::SparseAttentionConfig& config,
                         const SparsifyReport& report);

/// restore_sparsity_state() of a file.
RestoredSparsity restore_sparsity_state(torch::nn::Module& model, const std::filesystem::path& path,
                                        const SparsifyOptions& options = {},
                                        const std::vector<std::string>& overrides = {});

}  // namespace modelopt
