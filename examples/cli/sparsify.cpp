// modelopt sparsify --model DIR --config NAME|FILE: the main job.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <modelopt/config/parse.h>
#include <modelopt/models/generate.h>
#include <modelopt/sparsify/attention_modules.h>

#include "commands.h"
#include "exit_code.h"
#include "export_target.h"
#include "model_session.h"
#include "output.h"
#include "progress_bar.h"
#include "prompt.h"
#include "statistics_table.h"
#include "text_layout.h"
#include "text_table.h"

namespace modelopt::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Options : ContinuationOptions {
  ExportTarget export_target;
  bool stats = false;
};

// The same prompt continued by the dense and by the sparse model.
struct Continuations {
  models::GeneratedSequence dense;
  models::GeneratedSequence sparse;
  std::vector<models::ModuleStats> decode_stats;  ///< of the sparse model, where they are asked for
  attention::ThresholdCounts decode_thresholds;   ///< of the sparse model

  /// Index of the first token that differs; none if they are equal.
  [[nodiscard]] std::optional<std::size_t> first_difference() const {
    const auto [a, b] = std::mismatch(dense.ids.begin(), dense.ids.end(), sparse.ids.begin(), sparse.ids.end());
    if (a == dense.ids.end() && b == sparse.ids.end()) return std::nullopt;
    return static_cast<std::size_t>(a - dense.ids.begin());
  }
};

// A continuation as text, or its ids where there is no tokenizer.
std::string to_text(const models::GeneratedSequence& sequence, const Prompts& prompts) {
  if (prompts.tokenizer) return prompts.tokenizer->decode(sequence.ids, true);
  std::string ids;
  for (const std::int64_t id : sequence.ids) ids += (ids.empty() ? "" : " ") + std::to_string(id);
  return ids;
}

std::string token_text(const std::vector<std::int64_t>& ids, std::size_t index, const Prompts& prompts) {
  if (index >= ids.size()) return "the end";
  if (!prompts.tokenizer) return std::to_string(ids[index]);
  return Json(prompts.tokenizer->decode(std::span(&ids[index], 1), false)).dump();
}

std::string side_by_side(const std::string& left, const std::string& right) {
  constexpr std::size_t kWidth = 48;  // two columns and a bar in 100
  auto left_lines = wrap(printable(left), kWidth);
  auto right_lines = wrap(printable(right), kWidth);
  const std::size_t count = std::max(left_lines.size(), right_lines.size());
  left_lines.resize(count);
  right_lines.resize(count);
  std::string text =
      pad_right("dense", kWidth) + " | sparse\n" + std::string(kWidth, '-') + "-+-" + std::string(kWidth, '-') + "\n";
  for (std::size_t i = 0; i < count; ++i) {
    std::string line = pad_right(left_lines[i], kWidth) + " | " + right_lines[i];
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string difference_sentence(const Continuations& texts, const Prompts& prompts) {
  const auto index = texts.first_difference();
  if (!index) return str("The continuations are the same, ", texts.dense.ids.size(), " tokens long.\n");
  return str("They first differ at token ", *index + 1, " of ",
             std::max(texts.dense.ids.size(), texts.sparse.ids.size()), ": dense ",
             token_text(texts.dense.ids, *index, prompts), ", sparse ", token_text(texts.sparse.ids, *index, prompts),
             ".\n");
}

std::string comparison_table(const eval::EvalResult& result, bool skips) {
  TextTable table({{"on the prompt"}, {"dense", Align::kRight}, {"sparse", Align::kRight}});
  table.add_row({"prefill seconds", fixed(result.seconds_dense, 3), fixed(*result.seconds_sparse, 3)});
  table.add_row({"perplexity", fixed(result.dense_ppl, 3), fixed(result.ppl, 3)});
  table.add_row({"KL divergence of the logits, mean", "", significant(*result.kld_mean, 4)});
  table.add_row({"KL divergence of the logits, 99th percentile", "", significant(*result.kld_p99, 4)});
  table.add_row({"top-1 agreement", "", fixed(100.0 * *result.top1, 2) + " %"});
  table.add_row({"attended share of visible pairs", "100.00 %", fixed(100.0 * *result.kept_fraction, 2) + " %"});
  if (skips)
    table.add_row({"skipped share of visible blocks", "0.00 %", fixed(100.0 * *result.skipped_fraction, 2) + " %"});
  return table.render();
}

// KL divergence and the rest over all positions of the prompt; one window that is as long as it.
eval::EvalResult compare(const ModelSession& session, const std::vector<std::int64_t>& prompt,
                         const eval::NamedConfig& config, const CommonOptions& common) {
  MODELOPT_CHECK(prompt.size() >= 2, UsageError,
                 "the prompt has 1 token, expected at least 2 to compare predictions on");
  ProgressBar bar("comparing", progress_mode(common));
  eval::EvalOptions options;
  options.seq_lens = {static_cast<std::int64_t>(prompt.size())};
  options.kernel = common.kernel;
  options.progress = [&](std::int64_t done, std::int64_t total) { bar.update(done, total); };
  return eval::evaluate(*session.model, {prompt}, {config}, options).front();
}

Continuations continue_prompt(const ModelSession& session, const Prompts& prompts, const eval::NamedConfig& config,
                              const models::GenerateConfig& generation, const CommonOptions& common) {
  ProgressBar bar("generating", progress_mode(common));
  std::int64_t done = 0;
  const auto step = [&](std::size_t, std::int64_t) { bar.update(++done, 2 * generation.max_new_tokens); };
  Continuations result;
  apply_configs(session, {});
  result.dense = models::generate(*session.model, prompts.rows, generation, step).sequences.front();
  done = generation.max_new_tokens;
  apply_configs(session, {config});
  models::GenerateResult sparse = models::generate(*session.model, prompts.rows, generation, step);
  result.sparse = std::move(sparse.sequences.front());
  result.decode_stats = std::move(sparse.decode_stats);
  result.decode_thresholds = threshold_counts(*session.model, models::Phase::kDecode);
  bar.update(2 * generation.max_new_tokens, 2 * generation.max_new_tokens);
  return result;
}

Json to_data(const models::GeneratedSequence& sequence, const Prompts& prompts) {
  return {{"text", prompts.tokenizer ? Json(to_text(sequence, prompts)) : Json(nullptr)},
          {"ids", sequence.ids},
          {"finish_reason", models::to_string(sequence.finish_reason)}};
}

Json to_data(const Continuations& texts, const Prompts& prompts) {
  const auto index = texts.first_difference();
  return {{"dense", to_data(texts.dense, prompts)},
          {"sparse", to_data(texts.sparse, prompts)},
          {"first_difference", index ? Json(*index) : Json(nullptr)}};
}

void check_options(const Options& options) {
  check_sampling_options(options.sampling);
  check_export(options.export_target, options.model);
}

void run(const Options& options) {
  check_options(options);
  const Output output(options.json);
  const auto named = named_configs(options.config, options.common);
  ModelSession session = load_session(options.model, options.common);
  session.slots.collect_stats = options.stats;
  const auto configs = effective_configs(session, named, options.config, options.common);
  MODELOPT_CHECK(!configs.empty(), UsageError, "sparsify needs --config NAME|FILE, and ", options.model,
                 " carries none of its own");
  const eval::NamedConfig& config = configs.front();
  const Prompts prompts = read_prompts(session, options.prompt);
  const auto generation = generate_config(session, options.sampling, options.common);
  MODELOPT_CHECK(prompts.rows.size() == 1, UsageError, "--token-ids ", options.prompt.token_ids, ": has ",
                 prompts.rows.size(), " rows, expected one prompt");

  const SparsifyReport report = apply_configs(session, configs);
  output.print(str(options.model, " with ", config.name, ": ", report.sparse_modules(), " of ", report.modules.size(),
                   " attention modules are sparse\n\n", to_table(report), "\n"));
  const auto& prompt = prompts.rows.front();
  const eval::EvalResult result = compare(session, prompt, config, options.common);
  output.print(comparison_table(result, has_skip_softmax(config.config)) + "\n");
  const Continuations texts = continue_prompt(session, prompts, config, generation, options.common);
  output.print(str("The prompt (", prompt.size(), " tokens) continues\n\n",
                   side_by_side(to_text(texts.dense, prompts), to_text(texts.sparse, prompts)), "\n",
                   difference_sentence(texts, prompts)));
  eval::AttentionStatistics statistics = result.statistics;  // of the prompt, to which decode is added
  statistics.add(models::Phase::kDecode, texts.decode_stats, session.model->config().num_key_value_heads);
  statistics.add(models::Phase::kDecode, texts.decode_thresholds);
  if (options.stats || asks_for_statistics(config.config)) output.print("\n" + statistics_table(statistics));
  if (!options.export_target.directory.empty()) {
    write_export(session, config, options.export_target, options.common);
    output.print(str("\nWrote ", options.export_target.directory, "\n"));
  }

  Json data = {{"model", options.model}, {"config", config.name}, {"configuration", config::to_json(config.config)}};
  data.update(to_json(report));
  data["prompt_tokens"] = prompt.size();
  data["comparison"] = eval::to_json(result);
  data["statistics"] = eval::to_json(statistics);
  data["thresholds"] = eval::thresholds_to_json(statistics);
  data["generation"] = to_data(texts, prompts);
  data["export"] = options.export_target.directory.empty() ? Json(nullptr) : Json(options.export_target.directory);
  output.finish(data);
}

}  // namespace

Command add_sparsify(CLI::App& program) {
  const auto options = std::make_shared<Options>();
  CLI::App* parser = program.add_subcommand(
      "sparsify", "Apply a sparse configuration, compare output before and after, export the result");
  add_model_option(*parser, options->model);
  add_export_options(*parser, options->export_target, "the configuration");
  add_json_option(*parser, options->json);
  add_stats_option(*parser, options->stats);
  add_config_options(*parser, options->config, ConfigUse::kOneRequired);
  add_prompt_options(*parser, options->prompt);
  add_sampling_options(*parser, options->sampling);
  return finish_command(parser, options, &run);
}

}  // namespace modelopt::cli
