// RULER (arXiv 2404.06654): what a dense and a sparse model find in long prompts.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <modelopt/calibration/ruler_sample.h>
#include <modelopt/eval/attention_statistics.h>
#include <modelopt/eval/evaluate.h>
#include <modelopt/eval/ruler_score.h>

namespace modelopt::eval {

struct RulerOptions {
  std::vector<calibration::RulerTask> tasks;  ///< each at every length; empty: all that have room, others are warned of
  std::vector<std::int64_t> lengths = {4096};  ///< tokens of the prompts
  std::int64_t samples = 4;                    ///< prompts per task and length
  std::uint64_t seed = 0;                      ///< of the prompts and the bootstrap
  std::vector<std::int64_t> stop_token_ids;
  /// Decode steps after each prompt, whatever the model writes; absent: as many as the answers need, until it stops.
  std::optional<std::int64_t> decode_steps;
  std::string kernel = "auto";  ///< backend of the attention operator
  /// Called after each prompt with the tokens done so far and in total, over all runs.
  std::function<void(std::int64_t done, std::int64_t total)> progress;
};

/// One prompt and what the model made of it.
struct RulerAnswer {
  std::int64_t prompt_tokens = 0;
  std::string prediction;
  std::vector<std::string> answers;  ///< expected
  std::vector<std::string> missing;  ///< those that the prediction lacks
};

/// One task at one length with one configuration.
struct RulerResult {
  std::optional<std::string> config;  ///< absent: dense
  calibration::RulerTask task = calibration::RulerTask::kNiahSingle;
  std::int64_t length = 0;
  std::vector<RulerAnswer> prompts;
  double score = 0.0;              ///< mean share of the answers that were found: RULER's "string match, all"
  Interval score_range;            ///< 95 %, bootstrap over prompts
  double score_part = 0.0;         ///< share of prompts with at least one answer found: "string match, part"
  std::int64_t complete = 0;       ///< prompts with all answers found
  AttentionStatistics statistics;  ///< of the sparse runs; the dense ones are not counted
  std::uint64_t seed = 0;          ///< of the bootstrap
  double seconds = 0.0;
};

/// Runs each prompt dense and once per configuration, greedily, for one and a half times the tokens of its answers and
/// 8 more, or for `decode_steps` and one. Returns results in the order of lengths, tasks, then dense and
/// configurations. The model is left without sparsity. Throws InvalidArgument, before anything runs, for a task without
/// room in a length, a length beyond what the model's context leaves for the answer or without room for any task, a
/// task or length that is there twice, and no length, sample or decode step; and what sparsify() throws.
[[nodiscard]] std::vector<RulerResult> evaluate_ruler(models::CausalLM& model,
                                                      const calibration::RulerGenerator& generator,
                                                      const std::vector<NamedConfig>& configs,
                                                      const RulerOptions& options);

/// Adds the prompts of `other`, a result of the same length and configuration: all prompts count alike.
void merge(RulerResult& result, const RulerResult& other);

/// The fields of docs/cli.md.
[[nodiscard]] nlohmann::ordered_json to_json(const RulerResult& result);

}  // namespace modelopt::eval
