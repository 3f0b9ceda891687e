// What commands that run a model have in common: loading it, its tokenizer, and what sparsity applies.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <modelopt/checkpoint/tokenizer/tokenizer.h>
#include <modelopt/eval/evaluate.h>
#include <modelopt/models/causal_lm.h>
#include <modelopt/sparsify/sparsify.h>

#include "common_options.h"
#include "config_options.h"

namespace modelopt::cli {

/// --model, with upstream's name as alias.
void add_model_option(CLI::App& command, std::string& directory);

struct ModelSession {
  std::filesystem::path directory;
  std::shared_ptr<models::CausalLM> model;
  SparsifyOptions slots;  ///< the kernel that was asked for

  [[nodiscard]] std::int64_t vocab_size() const { return model->config().vocab_size; }
};

/// Loads with a progress bar, and checks that the operator's backend can run the model.
[[nodiscard]] ModelSession load_session(const std::string& directory, const CommonOptions& common);

/// `named` if there are any; otherwise what the checkpoint carries (announced in one line), unless --dense; otherwise
/// nothing. Throws UsageError where --set or --backend have nothing to change.
[[nodiscard]] std::vector<eval::NamedConfig> effective_configs(const ModelSession& session,
                                                               std::vector<eval::NamedConfig> named,
                                                               const ConfigOptions& options,
                                                               const CommonOptions& common);

/// Fills the model's slots; without a configuration they become dense.
SparsifyReport apply_configs(const ModelSession& session, const std::vector<eval::NamedConfig>& configs);

/// The tokenizer of a model directory. Throws DataError if it has none: `instead` says what does without.
[[nodiscard]] checkpoint::Tokenizer load_tokenizer(const std::filesystem::path& directory, const std::string& instead);

/// Throws DataError if the tokenizer gave an id that the model does not have.
void check_vocabulary(const ModelSession& session, std::span<const std::int64_t> ids);

[[nodiscard]] bool has_tokenizer(const std::filesystem::path& directory);

}  // namespace modelopt::cli
