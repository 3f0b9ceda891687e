#include <modelopt/eval/ruler_eval.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include <modelopt/error.h>
#include <modelopt/models/causal_lm.h>
#include <modelopt/models/generate.h>
#include <modelopt/sparsify/attention_modules.h>
#include <modelopt/sparsify/dense_scope.h>
#include <modelopt/sparsify/sparsify.h>
#include <modelopt/util/log.h>

namespace modelopt::eval {
namespace {

using attention::Phase;
using calibration::RulerGenerator;
using calibration::RulerSample;
using calibration::RulerTask;

template <typename Value>
bool distinct(std::vector<Value> values) {
  std::sort(values.begin(), values.end());
  return std::adjacent_find(values.begin(), values.end()) == values.end();
}

void check(const RulerOptions& options) {
  MODELOPT_CHECK(!options.lengths.empty(), InvalidArgument, "no prompt length is given, expected at least one");
  MODELOPT_CHECK(options.samples >= 1, InvalidArgument, "number of prompts is ", options.samples,
                 ", expected at least 1");
  MODELOPT_CHECK(!options.decode_steps || *options.decode_steps >= 1, InvalidArgument, "number of decode steps is ",
                 *options.decode_steps, ", expected at least 1");
  MODELOPT_CHECK(distinct(options.tasks), InvalidArgument, "a RULER task is given twice, expected each once");
  MODELOPT_CHECK(distinct(options.lengths), InvalidArgument, "a prompt length is given twice, expected each once");
}

std::int64_t answer_tokens(const checkpoint::Tokenizer& tokenizer, const std::vector<std::string>& answers) {
  constexpr std::int64_t kExtra = 8;
  std::string text;
  for (const std::string& answer : answers) text += (text.empty() ? "" : ", ") + answer;
  return std::ssize(tokenizer.encode(text, false)) * 3 / 2 + kExtra;
}

// The first token is the prefill's.
std::int64_t new_tokens(const checkpoint::Tokenizer& tokenizer, const RulerSample& sample,
                        const RulerOptions& options) {
  return options.decode_steps ? *options.decode_steps + 1 : answer_tokens(tokenizer, sample.answers);
}

void summarise(RulerResult& result, std::uint64_t seed) {
  result.seed = seed;
  result.score = result.score_part = 0.0;
  result.complete = 0;
  std::vector<double> shares;
  const auto count = static_cast<double>(result.prompts.size());
  for (const RulerAnswer& prompt : result.prompts) {
    const auto expected = static_cast<double>(prompt.answers.size());
    shares.push_back((expected - static_cast<double>(prompt.missing.size())) / expected);
    result.score += shares.back() / count;
    result.score_part += shares.back() > 0.0 ? 1.0 / count : 0.0;
    result.complete += prompt.missing.empty() ? 1 : 0;
  }
  result.score_range = bootstrap_interval(shares, seed);
}

class RulerRun {
 public:
  RulerRun(models::CausalLM& model, const checkpoint::Tokenizer& tokenizer, const RulerOptions& options)
      : model_(model), tokenizer_(tokenizer), options_(options) {}

  RulerResult run(const std::vector<RulerSample>& samples, const NamedConfig* config) {
    sparsify(model_, config != nullptr ? config->config : config::SparseAttentionConfig{},
             {.kernel = options_.kernel, .collect_stats = config != nullptr});
    RulerResult result;
    if (config != nullptr) result.config = config->name;
    result.task = samples.front().request.task;
    result.length = samples.front().request.target_tokens;
    const auto start = std::chrono::steady_clock::now();
    for (const RulerSample& sample : samples) result.prompts.push_back(answer(sample, result));
    for (const Phase phase : {Phase::kPrefill, Phase::kDecode})
      result.statistics.add(phase, threshold_counts(model_, phase));
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    result.seconds = elapsed.count();
    summarise(result, options_.seed);
    return result;
  }

 private:
  RulerAnswer answer(const RulerSample& sample, RulerResult& result) {
    models::GenerateConfig generation;
    generation.max_new_tokens = new_tokens(tokenizer_, sample, options_);
    if (!options_.decode_steps) generation.stop_token_ids = options_.stop_token_ids;
    const models::GenerateResult generated = models::generate(model_, {sample.ids}, generation);
    const std::int64_t key_heads = model_.config().num_key_value_heads;
    result.statistics.add(Phase::kPrefill, generated.prefill_stats, key_heads);
    result.statistics.add(Phase::kDecode, generated.decode_stats, key_heads);
    RulerAnswer answer{.prompt_tokens = std::ssize(sample.ids),
                       .prediction = tokenizer_.decode(generated.sequences.front().ids, true),
                       .answers = sample.answers,
                       .missing = {}};
    answer.missing = missing_answers(answer.prediction, answer.answers);
    return answer;
  }

  models::CausalLM& model_;
  const checkpoint::Tokenizer& tokenizer_;
  const RulerOptions& options_;
};

std::vector<RulerSample> make_samples(const RulerGenerator& generator, RulerTask task, std::int64_t length,
                                      const RulerOptions& options) {
  std::vector<RulerSample> samples;
  for (std::int64_t i = 0; i < options.samples; ++i)
    samples.push_back(generator.make(
        {.task = task, .target_tokens = length, .seed = options.seed, .index = static_cast<std::uint64_t>(i)}));
  return samples;
}

// Of the length; what has no room in it is said.
std::vector<RulerTask> tasks_of(std::int64_t length, const RulerGenerator& generator, const RulerOptions& options) {
  if (!options.tasks.empty()) return options.tasks;
  std::vector<RulerTask> tasks = generator.fitting_tasks(length, options.seed);
  MODELOPT_CHECK(!tasks.empty(), InvalidArgument, "prompts of ", length,
                 " tokens have no room for any RULER task, expected longer ones");
  std::string left_out;
  for (const calibration::RulerTaskName& entry : calibration::kRulerTasks)
    if (std::find(tasks.begin(), tasks.end(), entry.task) == tasks.end())
      left_out += str(left_out.empty() ? "" : ", ", entry.name);
  if (!left_out.empty())
    log::warn(str("RULER: prompts of ", length, " tokens have no room for ", left_out, ": left out"));
  return tasks;
}

// Before anything runs: prompts by length and task, each with room for its answer.
std::vector<std::vector<RulerSample>> make_all_samples(const RulerGenerator& generator, std::int64_t context,
                                                       const RulerOptions& options) {
  std::vector<std::vector<RulerSample>> all;
  for (const std::int64_t length : options.lengths) {
    MODELOPT_CHECK(length < context, InvalidArgument, "prompts of ", length, " tokens, expected less than ", context,
                   ", the model's context, which the answer shares");
    for (const RulerTask task : tasks_of(length, generator, options)) {
      all.push_back(make_samples(generator, task, length, options));
      for (const RulerSample& sample : all.back()) {
        const std::int64_t more = new_tokens(generator.tokenizer(), sample, options);
        MODELOPT_CHECK(std::ssize(sample.ids) + more <= context, InvalidArgument, "a prompt of ", sample.ids.size(),
                       " tokens and ", more, " for its answer, expected at most ", context,
                       " together, the model's context");
      }
    }
  }
  return all;
}

nlohmann::ordered_json nullable(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
}

}  // namespace

std::vector<RulerResult> evaluate_ruler(models::CausalLM& model, const RulerGenerator& generator,
                                        const std::vector<NamedConfig>& configs, const RulerOptions& options) {
  check(options);
  const auto all_samples = make_all_samples(generator, model.config().max_position_embeddings, options);
  const DenseScope dense_scope(model);
  RulerRun run(model, generator.tokenizer(), options);
  const auto runs = std::ssize(configs) + 1;
  std::int64_t total = 0, done = 0;
  for (const auto& samples : all_samples) total += samples.front().request.target_tokens * runs;
  std::vector<RulerResult> results;
  for (const std::vector<RulerSample>& samples : all_samples) {
    for (std::int64_t i = 0; i < runs; ++i) {
      results.push_back(run.run(samples, i == 0 ? nullptr : &configs[static_cast<std::size_t>(i - 1)]));
      done += samples.front().request.target_tokens;
      if (options.progress) options.progress(done, total);
    }
  }
  return results;
}

void merge(RulerResult& result, const RulerResult& other) {
  result.prompts.insert(result.prompts.end(), other.prompts.begin(), other.prompts.end());
  result.statistics += other.statistics;
  result.seconds += other.seconds;
  summarise(result, other.seed);
}

nlohmann::ordered_json to_json(const RulerResult& result) {
  const AttentionCounts prefill = result.statistics.total(Phase::kPrefill);
  const AttentionCounts decode = result.statistics.total(Phase::kDecode);
  nlohmann::ordered_json prompts = nlohmann::ordered_json::array();
  for (const RulerAnswer& prompt : result.prompts)
    prompts.push_back({{"prompt_tokens", prompt.prompt_tokens},
                       {"prediction", prompt.prediction},
                       {"answers", prompt.answers},
                       {"missing", prompt.missing}});
  return {{"config", result.config ? nlohmann::ordered_json(*result.config) : nlohmann::ordered_json(nullptr)},
          {"task", calibration::to_string(result.task)},
          {"seq_len", result.length},
          {"samples", result.prompts.size()},
          {"score", result.score},
          {"score_low", result.score_range.low},
          {"score_high", result.score_range.high},
          {"score_part", result.score_part},
          {"complete", result.complete},
          {"prefill_skipped_fraction", nullable(prefill.skipped_fraction())},
          {"decode_skipped_fraction", nullable(decode.skipped_fraction())},
          {"prefill_blocks", {prefill.blocks_skipped, prefill.blocks_visible}},
          {"decode_blocks", {decode.blocks_skipped, decode.blocks_visible}},
          {"thresholds", thresholds_to_json(result.statistics)},
          {"seconds", result.seconds},
          {"prompts", std::move(prompts)}};
}

}  // namespace modelopt::eval
