// modelopt generate --model DIR
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include <modelopt/models/generate.h>
#include <modelopt/sparsify/attention_modules.h>
#include <modelopt/util/log.h>

#include "commands.h"
#include "model_session.h"
#include "output.h"
#include "prompt.h"
#include "statistics_table.h"
#include "text_layout.h"
#include "text_table.h"

namespace modelopt::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Options : ContinuationOptions {
  bool stats = false;
};

// A terminal is not to be steered by what a model writes; a file or pipe gets the text as it is.
void print_text(const Output& output, const std::string& text) {
  static const bool terminal = ::isatty(STDOUT_FILENO) == 1;
  output.print(terminal ? printable(text) : text);
}

// The text of a single prompt appears while it is generated.
models::GenerateResult generate(const ModelSession& session, const Prompts& prompts,
                                const models::GenerateConfig& config, const Output& output) {
  if (!prompts.tokenizer || prompts.rows.size() > 1) {
    const auto result = models::generate(*session.model, prompts.rows, config);
    for (const auto& sequence : result.sequences)
      print_text(output, prompts.tokenizer ? prompts.tokenizer->decode(sequence.ids, true) + "\n"
                                           : Json(sequence.ids).dump() + "\n");
    return result;
  }
  checkpoint::IncrementalDecoder decoder(*prompts.tokenizer, /*skip_special_tokens=*/true);
  std::optional<log::HoldScope> unbroken;  // what the prefill warned of stands before the text, the rest after it
  auto result = models::generate(*session.model, prompts.rows, config, [&](std::size_t, std::int64_t token) {
    if (!unbroken) unbroken.emplace();
    print_text(output, decoder.push(token));
  });
  print_text(output, decoder.finish() + "\n");
  return result;
}

std::string speed(std::int64_t tokens, double seconds) {
  return str(tokens, " tokens in ", fixed(seconds, 2), " s (", fixed(static_cast<double>(tokens) / seconds, 0),
             " tokens/s)");
}

void run(const Options& options) {
  check_sampling_options(options.sampling);
  const Output output(options.json);
  const auto named = named_configs(options.config, options.common);
  ModelSession session = load_session(options.model, options.common);
  session.slots.collect_stats = options.stats;
  const auto configs = effective_configs(session, named, options.config, options.common);
  apply_configs(session, configs);
  const Prompts prompts = read_prompts(session, options.prompt);
  const auto result = generate(session, prompts, generate_config(session, options.sampling, options.common), output);
  log::info("prefill: " + speed(result.prefill_tokens, result.prefill_seconds));
  if (result.decode_tokens > 0) log::info("decode: " + speed(result.decode_tokens, result.decode_seconds));

  eval::AttentionStatistics statistics;
  const std::int64_t key_heads = session.model->config().num_key_value_heads;
  statistics.add(models::Phase::kPrefill, result.prefill_stats, key_heads);
  statistics.add(models::Phase::kDecode, result.decode_stats, key_heads);
  for (const auto phase : {models::Phase::kPrefill, models::Phase::kDecode})
    statistics.add(phase, threshold_counts(*session.model, phase));
  if (!statistics.empty()) output.print("\n" + statistics_table(statistics));

  Json sequences = Json::array();
  for (std::size_t i = 0; i < result.sequences.size(); ++i) {
    const auto& sequence = result.sequences[i];
    const Json text = prompts.tokenizer ? Json(prompts.tokenizer->decode(sequence.ids, true)) : Json(nullptr);
    sequences.push_back({{"prompt_tokens", prompts.rows[i].size()},
                         {"text", text},
                         {"ids", sequence.ids},
                         {"finish_reason", models::to_string(sequence.finish_reason)}});
  }
  output.finish({{"model", options.model},
                 {"config", configs.empty() ? Json(nullptr) : Json(configs.front().name)},
                 {"sequences", std::move(sequences)},
                 {"prefill_tokens", result.prefill_tokens},
                 {"prefill_seconds", result.prefill_seconds},
                 {"decode_tokens", result.decode_tokens},
                 {"decode_seconds", result.decode_seconds},
                 {"statistics", eval::to_json(statistics)},
                 {"thresholds", eval::thresholds_to_json(statistics)}});
}

}  // namespace

Command add_generate(CLI::App& program) {
  const auto options = std::make_shared<Options>();
  CLI::App* parser = program.add_subcommand("generate", "Continue a prompt, dense or sparse");
  add_model_option(*parser, options->model);
  add_json_option(*parser, options->json);
  add_prompt_options(*parser, options->prompt);
  add_sampling_options(*parser, options->sampling);
  add_stats_option(*parser, options->stats);
  add_config_options(*parser, options->config, ConfigUse::kOne);
  return finish_command(parser, options, &run);
}

}  // namespace modelopt::cli
