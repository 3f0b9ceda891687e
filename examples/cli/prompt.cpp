#include "prompt.h"

#include <cmath>
#include <string_view>

#include <modelopt/checkpoint/generation_config.h>
#include <modelopt/util/file.h>

#include "default_prompt.h"
#include "exit_code.h"
#include "token_ids.h"

namespace modelopt::cli {

void add_prompt_options(CLI::App& command, PromptOptions& options) {
  const std::string group = "Prompt";
  CLI::Option* text =
      command.add_option("--prompt", options.text, "the prompt itself")->type_name("TEXT")->group(group);
  CLI::Option* file =
      command.add_option("--prompt-file", options.file, "a text file (default: a passage of Newton's Opticks)")
          ->type_name("FILE")
          ->group(group);
  CLI::Option* ids = command.add_option("--token-ids", options.token_ids, "JSON array of token ids, or of such arrays")
                         ->type_name("FILE")
                         ->group(group);
  text->excludes(file)->excludes(ids);
  file->excludes(ids);
  command.add_option("--prompt-tokens,--seq_len", options.max_tokens, "cut the prompt after so many tokens")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->group(group);
}

void add_sampling_options(CLI::App& command, SamplingOptions& options) {
  const std::string group = "Generation";
  command.add_option("--max-new-tokens,--max_new_tokens", options.max_new_tokens, "tokens to generate (default: 64)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->group(group);
  command.add_flag("--do-sample,--do_sample", options.do_sample, "sample instead of taking the most likely token")
      ->group(group);
  command.add_option("--temperature", options.temperature, "with --do-sample; default: of generation_config.json")
      ->group(group);
  command.add_option("--top-k,--top_k", options.top_k, "with --do-sample; 0: all tokens")->group(group);
  command.add_option("--top-p,--top_p", options.top_p, "with --do-sample; 1: all tokens")->group(group);
}

void check_sampling_options(const SamplingOptions& options) {
  const auto needs_sampling = [&](const char* name, bool given) {
    MODELOPT_CHECK(!given || options.do_sample, UsageError, name, " has an effect only with --do-sample");
  };
  needs_sampling("--temperature", options.temperature.has_value());
  needs_sampling("--top-k", options.top_k.has_value());
  needs_sampling("--top-p", options.top_p.has_value());
  const double temperature = options.temperature.value_or(1.0);
  MODELOPT_CHECK(std::isfinite(temperature) && temperature > 0.0, UsageError, "--temperature ", temperature,
                 ": expected more than 0 (the most likely token is taken without --do-sample)");
  MODELOPT_CHECK(options.top_k.value_or(0) >= 0, UsageError, "--top-k ", *options.top_k, ": expected at least 0");
  const double top_p = options.top_p.value_or(1.0);
  MODELOPT_CHECK(top_p > 0.0 && top_p <= 1.0, UsageError, "--top-p ", top_p, ": expected more than 0 and at most 1");
}

Prompts read_prompts(const ModelSession& session, const PromptOptions& options) {
  Prompts prompts;
  if (has_tokenizer(session.directory)) prompts.tokenizer = load_tokenizer(session.directory, "");
  if (!options.token_ids.empty()) {
    prompts.rows = read_token_ids(options.token_ids, session.vocab_size());
  } else {
    if (!prompts.tokenizer)
      prompts.tokenizer = load_tokenizer(session.directory, ", expected one, or --token-ids instead of a text");
    const std::string text = options.text           ? *options.text
                             : options.file.empty() ? std::string(kDefaultPrompt)
                                                    : read_file(options.file);
    prompts.rows = {prompts.tokenizer->encode(text, true)};
    MODELOPT_CHECK(!prompts.rows.front().empty(), UsageError, "the prompt is empty, expected at least one token");
    check_vocabulary(session, prompts.rows.front());
  }
  for (auto& row : prompts.rows)
    if (options.max_tokens && static_cast<std::int64_t>(row.size()) > *options.max_tokens)
      row.resize(static_cast<std::size_t>(*options.max_tokens));
  return prompts;
}

models::GenerateConfig generate_config(const ModelSession& session, const SamplingOptions& options,
                                       const CommonOptions& common) {
  const auto defaults = checkpoint::read_generation_config(session.directory, session.model->config());
  models::GenerateConfig config;
  config.max_new_tokens = options.max_new_tokens;
  config.stop_token_ids = defaults.eos_token_ids;
  config.sampling.do_sample = options.do_sample;
  config.sampling.temperature = options.temperature.value_or(defaults.temperature);
  config.sampling.top_k = options.top_k.value_or(defaults.top_k);
  config.sampling.top_p = options.top_p.value_or(defaults.top_p);
  config.sampling.seed = common.seed;
  return config;
}

}  // namespace modelopt::cli
