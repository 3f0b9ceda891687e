// The prompt of `sparsify` and `generate`, and how it is continued.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <modelopt/models/generate.h>

#include "model_session.h"

namespace modelopt::cli {

struct PromptOptions {
  std::optional<std::string> text;
  std::string file;
  std::string token_ids;
  std::optional<std::int64_t> max_tokens;
};

struct SamplingOptions {
  std::int64_t max_new_tokens = 64;
  bool do_sample = false;
  std::optional<double> temperature;
  std::optional<std::int64_t> top_k;
  std::optional<double> top_p;
};

/// What `sparsify` and `generate` have in common.
struct ContinuationOptions {
  CommonOptions common;
  ConfigOptions config;
  PromptOptions prompt;
  SamplingOptions sampling;
  std::string model;
  std::string json;
};

void add_prompt_options(CLI::App& command, PromptOptions& options);
void add_sampling_options(CLI::App& command, SamplingOptions& options);

/// Throws UsageError for options without effect or out of their domain, before a model is loaded.
void check_sampling_options(const SamplingOptions& options);

/// Prompts as ids: one of a text, any number of --token-ids. The tokenizer is there if the directory has one.
struct Prompts {
  std::vector<std::vector<std::int64_t>> rows;
  std::optional<checkpoint::Tokenizer> tokenizer;
};

/// Without a prompt option: the passage that the program carries. Each prompt is cut after --prompt-tokens ids.
/// Throws DataError for what can't be read, UsageError for an empty prompt.
[[nodiscard]] Prompts read_prompts(const ModelSession& session, const PromptOptions& options);

/// What is not on the command line comes from the model's generation_config.json; stop tokens always do.
[[nodiscard]] models::GenerateConfig generate_config(const ModelSession& session, const SamplingOptions& options,
                                                     const CommonOptions& common);

}  // namespace modelopt::cli
