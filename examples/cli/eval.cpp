// modelopt eval --model DIR --config … --text FILE | --token-ids FILE | --ruler
#include <algorithm>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <modelopt/config/parse.h>
#include <modelopt/eval/evaluate.h>
#include <modelopt/util/file.h>

#include "commands.h"
#include "exit_code.h"
#include "model_session.h"
#include "output.h"
#include "progress_bar.h"
#include "ruler_options.h"
#include "statistics_table.h"
#include "text_table.h"
#include "token_ids.h"

namespace modelopt::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  CommonOptions common;
  ConfigOptions config;
  std::string model;
  std::string text;
  std::string token_ids;
  std::vector<std::int64_t> seq_lens = {2048};
  std::optional<std::int64_t> windows;
  bool stats = false;
  bool ruler = false;
  std::vector<std::string> ruler_tasks;
  std::optional<std::int64_t> ruler_samples;
  std::string ruler_text;
  std::string haystack;
  std::optional<std::int64_t> decode_steps;
  std::string json;
};

std::vector<std::vector<std::int64_t>> read_rows(const ModelSession& session, const Options& options) {
  if (!options.token_ids.empty()) return read_token_ids(options.token_ids, session.vocab_size());
  const auto tokenizer = load_tokenizer(session.directory, ", expected one, or --token-ids instead of --text");
  std::vector<std::vector<std::int64_t>> rows = {tokenizer.encode(read_file(options.text), false)};
  check_vocabulary(session, rows.front());
  return rows;
}

// Asked before anything is computed; a text that is too short is a matter of the data, not of a flag.
void check_lengths(const std::vector<std::vector<std::int64_t>>& rows, const Options& options) {
  const std::string& source = options.token_ids.empty() ? options.text : options.token_ids;
  std::size_t longest = 0;
  for (const auto& row : rows) longest = std::max(longest, row.size());
  for (const std::int64_t length : options.seq_lens)
    MODELOPT_CHECK(longest >= static_cast<std::size_t>(length), DataError, source, ": has ", longest,
                   " tokens, expected at least the ", length, " of --seq-len");
}

std::string with_error(double value, const std::optional<double>& error, int digits) {
  return fixed(value, digits) + (error ? "±" + fixed(*error, digits) : "");
}

std::string percent(const std::optional<double>& share, int digits) {
  return share ? fixed(100.0 * *share, digits) : "-";
}

std::optional<double> ppl_error(double ppl, const std::optional<double>& nll_error) {
  if (!nll_error) return std::nullopt;
  return ppl * *nll_error;  // first order: d exp(x) = exp(x) dx
}

void add_row(TextTable& table, const eval::EvalResult& row, bool skips) {
  const auto hundredfold = [](const std::optional<double>& value) {
    return value ? std::optional<double>(100.0 * *value) : std::nullopt;
  };
  std::vector<std::string> cells = {
      *row.config,
      with_error(row.ppl, ppl_error(row.ppl, row.nll_se), 2),
      significant(*row.kld_mean, 3) + (row.kld_se ? "±" + significant(*row.kld_se, 2) : ""),
      significant(*row.kld_p99, 3),
      with_error(100.0 * *row.top1, hundredfold(row.top1_se), 1),
      percent(row.kept_fraction, 1),
      fixed(*row.seconds_sparse, 2)};
  if (skips) cells.insert(cells.end() - 1, percent(row.skipped_fraction, 1));
  table.add_row(std::move(cells));
}

// A heading with the dense model's figures and a table of the configurations, for each window length.
std::string to_text(const std::vector<eval::EvalResult>& results, bool skips) {
  std::string text;
  for (std::size_t i = 0; i < results.size();) {
    const auto& first = results[i];
    text += str(i == 0 ? "" : "\n", first.windows, first.windows == 1 ? " window of " : " windows of ", first.seq_len,
                " tokens; dense: perplexity ",
                with_error(first.dense_ppl, ppl_error(first.dense_ppl, first.dense_nll_se), 2),
                ", negative log-likelihood ", with_error(first.dense_nll, first.dense_nll_se, 4), ", ",
                fixed(first.seconds_dense, 2), " s\n");
    std::vector<Column> columns = {
        {"configuration"},         {"perplexity", Align::kRight}, {"KL divergence", Align::kRight},
        {"p99", Align::kRight},    {"top-1 %", Align::kRight},    {"kept %", Align::kRight},
        {"seconds", Align::kRight}};
    if (skips) columns.insert(columns.end() - 1, {"skipped %", Align::kRight});
    TextTable table(std::move(columns));
    const std::int64_t length = first.seq_len;
    bool any = false;
    for (; i < results.size() && results[i].seq_len == length; ++i) {
      if (!results[i].config) continue;
      add_row(table, results[i], skips);
      any = true;
    }
    if (any) text += table.render();
  }
  return text;
}

// What the modules skipped and kept, for the configurations that ask for it, or all with --stats.
std::string statistics_text(const Options& options, const std::vector<eval::NamedConfig>& configs,
                            const std::vector<eval::EvalResult>& results) {
  std::string text;
  for (std::size_t i = 0; i < results.size() && !configs.empty(); ++i) {
    const eval::NamedConfig& named = configs[i % configs.size()];  // by length, then configuration
    if (!options.stats && !asks_for_statistics(named.config)) continue;
    text += str("\n", named.name, ", ", results[i].seq_len, " tokens\n", statistics_table(results[i].statistics));
  }
  return text;
}

Json nullable(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

Json to_data(const Options& options, const std::vector<eval::NamedConfig>& configs,
             const std::vector<eval::EvalResult>& results) {
  Json data;
  data["model"] = options.model;
  data["text"] = options.token_ids.empty() ? options.text : options.token_ids;
  data["configs"] = Json::object();
  for (const auto& named : configs) data["configs"][named.name] = config::to_json(named.config);
  data["results"] = Json::array();
  data["standard_errors"] = Json::array();  // of what the tables show beyond `results`, in the same order
  data["statistics"] = Json::array();       // by module, head group and phase, in the same order
  data["thresholds"] = Json::array();       // taken from calibrations, likewise
  for (const auto& result : results) {
    data["results"].push_back(eval::to_json(result));
    data["standard_errors"].push_back({{"ppl", nullable(ppl_error(result.ppl, result.nll_se))},
                                       {"dense_nll", nullable(result.dense_nll_se)},
                                       {"dense_ppl", nullable(ppl_error(result.dense_ppl, result.dense_nll_se))},
                                       {"top1", nullable(result.top1_se)}});
    data["statistics"].push_back(eval::to_json(result.statistics));
    data["thresholds"].push_back(eval::thresholds_to_json(result.statistics));
  }
  return data;
}

// RULER: what the dense model and the configurations find in prompts with known answers.
void evaluate_ruler(const ModelSession& session, const std::vector<eval::NamedConfig>& configs, const Options& options,
                    const Output& output) {
  const auto generator = ruler_generator(session, options.haystack, options.ruler_text);
  eval::RulerOptions ruler;
  ruler.lengths = options.seq_lens;
  ruler.samples = options.ruler_samples.value_or(ruler.samples);
  ruler.decode_steps = options.decode_steps;
  ruler.seed = options.common.seed;
  ruler.tasks = ruler_tasks(options.ruler_tasks);
  ruler.stop_token_ids = stop_tokens(session);
  const auto results = run_ruler(session, generator, configs, ruler, options.common);
  output.print(ruler_table(results));
  for (const auto& named : configs)
    if (options.stats || asks_for_statistics(named.config)) output.print(ruler_statistics(results, named.name));
  Json data = {{"model", options.model},
               {"seed", ruler.seed},
               {"haystack", haystack_name(options.haystack, options.ruler_text)},
               {"decode_steps", ruler.decode_steps ? Json(*ruler.decode_steps) : Json()},
               {"configs", Json::object()}};
  for (const auto& named : configs) data["configs"][named.name] = config::to_json(named.config);
  data["ruler"] = ruler_data(results);
  output.finish(data);
}

// Nothing that was asked for is without an effect.
void check_ruler_options(const Options& options) {
  if (!options.ruler) {
    MODELOPT_CHECK(options.ruler_tasks.empty() && options.ruler_text.empty() && options.haystack.empty() &&
                       !options.ruler_samples && !options.decode_steps,
                   UsageError,
                   "--ruler-tasks, --ruler-samples, --ruler-text, --haystack and --decode-steps have an effect only "
                   "with --ruler");
    return;
  }
  MODELOPT_CHECK(!options.windows, UsageError, "--windows ", *options.windows,
                 ": has no effect with --ruler, expected --ruler-samples");
  check_haystack(options.haystack, options.ruler_text, "--ruler-text");
  std::vector<std::int64_t> lengths = options.seq_lens;
  std::sort(lengths.begin(), lengths.end());
  const auto twice = std::adjacent_find(lengths.begin(), lengths.end());
  MODELOPT_CHECK(twice == lengths.end(), UsageError, "--seq-len ", *twice,
                 ": given twice, expected each length once with --ruler");
}

void run(const Options& options) {
  check_ruler_options(options);
  const Output output(options.json);
  const auto named = named_configs(options.config, options.common);
  const ModelSession session = load_session(options.model, options.common);
  const auto configs = effective_configs(session, named, options.config, options.common);
  if (options.ruler) {
    evaluate_ruler(session, configs, options, output);
    return;
  }
  const auto rows = read_rows(session, options);
  check_lengths(rows, options);

  ProgressBar bar("evaluating", progress_mode(options.common));
  eval::EvalOptions eval_options;
  eval_options.seq_lens = options.seq_lens;
  eval_options.windows = options.windows.value_or(4);
  eval_options.kernel = options.common.kernel;
  eval_options.progress = [&](std::int64_t done, std::int64_t total) { bar.update(done, total); };
  const auto results = eval::evaluate(*session.model, rows, configs, eval_options);
  const bool skips =
      std::any_of(configs.begin(), configs.end(), [](const auto& entry) { return has_skip_softmax(entry.config); });
  output.print(to_text(results, skips) + statistics_text(options, configs, results));
  output.finish(to_data(options, configs, results));
}

}  // namespace

Command add_eval(CLI::App& program) {
  const auto options = std::make_shared<Options>();
  CLI::App* parser = program.add_subcommand(
      "eval", "Perplexity, KL divergence and agreement of sparse configurations beside the dense model");
  add_model_option(*parser, options->model);
  CLI::Option_group* input = parser->add_option_group("Input", "exactly one");
  input->add_option("--text", options->text, "a text file, tokenised without special tokens")->type_name("FILE");
  input->add_option("--token-ids", options->token_ids, "JSON array of token ids, or of such arrays")->type_name("FILE");
  input->add_flag("--ruler", options->ruler, "prompts with known answers (RULER), made to the lengths of --seq-len");
  input->require_option(1);
  parser->add_option("--seq-len,--seq_len", options->seq_lens, "window lengths, e.g. 2048,8192 (default: 2048)")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 30));
  parser->add_option("--windows", options->windows, "windows per length; 0: all (default: 4)")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 30));
  parser
      ->add_option("--ruler-tasks", options->ruler_tasks,
                   "e.g. niah_single,variable_tracking (default: all that have room)")
      ->delimiter(',');
  parser->add_option("--ruler-samples", options->ruler_samples, "prompts per task and length (default: 4)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20));
  parser
      ->add_option(
          "--ruler-text", options->ruler_text,
          "text file, or directory of *.txt, that prompts are made of (default: the text that ships with this)")
      ->type_name("PATH");
  add_haystack_option(*parser, options->haystack);
  parser
      ->add_option("--decode-steps", options->decode_steps,
                   "decode so many steps after each prompt, past the end of text (default: as long as answers need)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20));
  add_json_option(*parser, options->json);
  add_stats_option(*parser, options->stats);
  add_config_options(*parser, options->config, ConfigUse::kMany);
  return finish_command(parser, options, &run);
}

}  // namespace modelopt::cli
