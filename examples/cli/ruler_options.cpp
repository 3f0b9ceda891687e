#include "ruler_options.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include <modelopt/checkpoint/generation_config.h>
#include <modelopt/config/enumeration.h>
#include <modelopt/error.h>

#include "exit_code.h"
#include "progress_bar.h"
#include "shipped_text.h"
#include "statistics_table.h"
#include "text_table.h"

namespace modelopt::cli {
namespace {

using calibration::RulerTask;
using eval::RulerResult;

std::string percent(const std::optional<double>& share) { return share ? fixed(100.0 * *share, 1) : "-"; }

// "62.5 [50.0, 75.0]"
std::string score(const RulerResult& result) {
  return str(fixed(100.0 * result.score, 1), " [", fixed(100.0 * result.score_range.low, 1), ", ",
             fixed(100.0 * result.score_range.high, 1), "]");
}

std::string skipped(const RulerResult& result, attention::Phase phase) {
  return percent(result.statistics.total(phase).skipped_fraction());
}

void add_row(TextTable& table, const std::string& name, const RulerResult& result) {
  table.add_row({name, result.config.value_or("dense"), score(result), percent(result.score_part),
                 str(result.complete, " of ", result.prompts.size()), skipped(result, attention::Phase::kPrefill),
                 skipped(result, attention::Phase::kDecode), fixed(result.seconds, 1)});
}

// All tasks of one length and configuration together: every prompt counts alike.
std::vector<RulerResult> totals(const std::vector<RulerResult>& results) {
  std::vector<RulerResult> sums;
  for (const RulerResult& result : results) {
    auto sum = std::find_if(sums.begin(), sums.end(), [&](const RulerResult& other) {
      return other.length == result.length && other.config == result.config;
    });
    if (sum == sums.end()) {
      sums.push_back({.config = result.config, .task = result.task, .length = result.length});
      sum = std::prev(sums.end());
    }
    eval::merge(*sum, result);
  }
  return sums;
}

}  // namespace

CLI::Option* add_haystack_option(CLI::App& command, std::string& haystack) {
  return command
      .add_option("--haystack", haystack,
                  "what needles are hidden in: text (default), or noise, sentences that say nothing")
      ->check(CLI::IsMember({"text", "noise"}));
}

void check_haystack(const std::string& haystack, const std::string& path, const std::string& path_option) {
  MODELOPT_CHECK(haystack != "noise" || path.empty(), UsageError, "--haystack noise with ", path_option, " ", path,
                 ": expected one of the two");
}

std::string haystack_name(const std::string& haystack, const std::string& path) {
  if (haystack == "noise") return haystack;
  return path.empty() ? "shipped" : path;
}

calibration::RulerGenerator ruler_generator(const ModelSession& session, const std::string& haystack,
                                            const std::string& path) {
  using calibration::Haystack;
  auto tokenizer = load_tokenizer(session.directory, ", expected one to make prompts with");
  if (haystack == "noise") return {std::move(tokenizer), Haystack::noise()};
  return {std::move(tokenizer), path.empty() ? Haystack(shipped_text()) : Haystack::from_path(path)};
}

std::vector<RulerTask> ruler_tasks(const std::vector<std::string>& names) {
  std::vector<RulerTask> tasks;
  for (const std::string& name : names) {
    const auto task = calibration::find_ruler_task(name);
    std::vector<std::string_view> known;
    for (const auto& entry : calibration::kRulerTasks) known.push_back(entry.name);
    MODELOPT_CHECK(task, UsageError, "--ruler-tasks ", name, ": expected ", config::one_of(known));
    MODELOPT_CHECK(std::find(tasks.begin(), tasks.end(), *task) == tasks.end(), UsageError, "--ruler-tasks ", name,
                   ": given twice, expected each task once");
    tasks.push_back(*task);
  }
  return tasks;
}

std::vector<std::int64_t> stop_tokens(const ModelSession& session) {
  return checkpoint::read_generation_config(session.directory, session.model->config()).eos_token_ids;
}

std::vector<RulerResult> run_ruler(const ModelSession& session, const calibration::RulerGenerator& generator,
                                   const std::vector<eval::NamedConfig>& configs, eval::RulerOptions options,
                                   const CommonOptions& common) {
  ProgressBar bar("RULER", progress_mode(common));
  options.kernel = common.kernel;
  options.progress = [&](std::int64_t done, std::int64_t total) { bar.update(done, total); };
  return eval::evaluate_ruler(*session.model, generator, configs, options);
}

std::string ruler_table(const std::vector<RulerResult>& results) {
  const std::vector<RulerResult> sums = totals(results);
  std::string text;
  for (std::size_t i = 0; i < results.size();) {
    const std::int64_t length = results[i].length;
    TextTable table({{"task"},
                     {"configuration"},
                     {"score % [95 %]", Align::kRight},
                     {"part %", Align::kRight},
                     {"complete", Align::kRight},
                     {"skipped % prefill", Align::kRight},
                     {"decode", Align::kRight},
                     {"seconds", Align::kRight}});
    for (; i < results.size() && results[i].length == length; ++i)
      add_row(table, std::string(calibration::to_string(results[i].task)), results[i]);
    for (const RulerResult& sum : sums)
      if (sum.length == length) add_row(table, "all", sum);
    text += str(text.empty() ? "" : "\n", "RULER, prompts of ", length, " tokens\n", table.render());
  }
  return text;
}

std::string ruler_statistics(const std::vector<RulerResult>& results, const std::string& config) {
  std::string text;
  for (const RulerResult& sum : totals(results))
    if (sum.config == config)
      text += str("\n", config, ", prompts of ", sum.length, " tokens\n", statistics_table(sum.statistics));
  return text;
}

nlohmann::ordered_json ruler_data(const std::vector<RulerResult>& results) {
  nlohmann::ordered_json data = nlohmann::ordered_json::array();
  for (const RulerResult& result : results) data.push_back(eval::to_json(result));
  for (const RulerResult& sum : totals(results)) {
    nlohmann::ordered_json json = eval::to_json(sum);
    json["task"] = "all";
    json.erase("prompts");
    json["statistics"] = eval::to_json(sum.statistics);
    data.push_back(std::move(json));
  }
  return data;
}

}  // namespace modelopt::cli
