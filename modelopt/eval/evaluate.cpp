#include <modelopt/eval/evaluate.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include <modelopt/error.h>
#include <modelopt/eval/logit_divergence.h>
#include <modelopt/eval/statistics.h>
#include <modelopt/eval/windows.h>
#include <modelopt/models/causal_lm.h>
#include <modelopt/sparsify/attention_modules.h>
#include <modelopt/sparsify/dense_scope.h>
#include <modelopt/sparsify/sparsify.h>
#include <modelopt/util/device.h>
#include <modelopt/util/log.h>

namespace modelopt::eval {
namespace {

using Window = std::span<const std::int64_t>;

struct Forward {
  at::Tensor hidden;  // [L - 1, hidden_size]: the positions that predict a token of the window
  std::vector<models::ModuleStats> stats;
  double seconds = 0.0;
};

Forward forward(models::CausalLM& model, Window window) {
  models::ModelInput input;
  input.input_ids = at::tensor(at::ArrayRef<std::int64_t>(window.data(), window.size()));
  input.lengths = {static_cast<std::int64_t>(window.size())};
  input.logits = models::LogitRows::kNone;
  const auto start = std::chrono::steady_clock::now();
  models::ModelOutput output = model.forward(input);
  synchronize(model.device());
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return {output.hidden.narrow(0, 0, output.hidden.size(0) - 1), std::move(output.stats), elapsed.count()};
}

// What one configuration (or the dense model) has shown so far.
struct Tally {
  std::vector<double> window_nll, window_kld, window_top1;
  std::vector<double> kld;  // of every token, for the percentile
  AttentionStatistics statistics;
  double seconds = 0.0;

  void add(const LogitDivergence& divergence) {
    window_nll.push_back(mean(divergence.nll));
    window_kld.push_back(mean(divergence.kld));
    const std::vector<double> same(divergence.top1.begin(), divergence.top1.end());
    window_top1.push_back(mean(same));
    kld.insert(kld.end(), divergence.kld.begin(), divergence.kld.end());
  }
};

EvalResult dense_result(const Tally& dense, std::int64_t seq_len) {
  EvalResult result;
  result.seq_len = seq_len;
  result.windows = static_cast<std::int64_t>(dense.window_nll.size());
  result.tokens = result.windows * (seq_len - 1);
  result.dense_nll = result.nll = mean(dense.window_nll);
  result.dense_nll_se = result.nll_se = standard_error(dense.window_nll);
  result.dense_ppl = result.ppl = std::exp(result.dense_nll);
  result.seconds_dense = dense.seconds;
  return result;
}

EvalResult sparse_result(const EvalResult& dense, const Tally& sparse, const std::string& name) {
  EvalResult result = dense;
  result.config = name;
  result.nll = mean(sparse.window_nll);
  result.nll_se = standard_error(sparse.window_nll);
  result.ppl = std::exp(result.nll);
  result.kld_mean = mean(sparse.window_kld);
  result.kld_se = standard_error(sparse.window_kld);
  result.kld_p99 = quantile(sparse.kld, 0.99);
  result.top1 = mean(sparse.window_top1);
  result.top1_se = standard_error(sparse.window_top1);
  result.statistics = sparse.statistics;
  result.kept_fraction = sparse.statistics.total().kept_fraction();
  result.skipped_fraction = sparse.statistics.total().skipped_fraction();
  result.seconds_sparse = sparse.seconds;
  return result;
}

// Whether an enabled rule has trial thresholds: counting them is a second pass over all scores.
bool has_trials(const config::SparseAttentionConfig& config) {
  const auto holds = [](const config::Rule& rule) {
    const auto* parameters = rule.enable && rule.method ? config::skip_softmax_parameters(*rule.method) : nullptr;
    const auto* thresholds =
        parameters != nullptr ? std::get_if<config::PhaseThresholds>(&parameters->threshold) : nullptr;
    return thresholds != nullptr && (thresholds->prefill.size() > 1 || thresholds->decode.size() > 1);
  };
  return holds(config.default_rule) ||
         std::any_of(config.rules.begin(), config.rules.end(), [&](const auto& entry) { return holds(entry.rule); });
}

// One configuration on one window. The CPU's kernels count what they attend as they go. On a GPU a kernel that counts
// is another, slower one: it runs by itself, on the backend that has it, and the timed run does not count. So do
// trials, unless the rule itself says collect_stats.
Forward run_sparse(models::CausalLM& model, Window window, const config::SparseAttentionConfig& config,
                   const std::string& kernel, Tally& tally) {
  const bool counts_apart = model.device().is_cuda() || has_trials(config);
  sparsify(model, config, {.kernel = kernel, .collect_stats = !counts_apart});
  Forward run = forward(model, window);
  tally.seconds += run.seconds;
  tally.statistics.add(attention::Phase::kPrefill, threshold_counts(model, attention::Phase::kPrefill));
  if (counts_apart) {
    sparsify(model, config, {.kernel = model.device().is_cuda() ? "auto" : kernel, .collect_stats = true});
    run.stats = forward(model, window).stats;
  }
  tally.statistics.add(attention::Phase::kPrefill, run.stats, model.config().num_key_value_heads);
  return run;
}

// One window: dense, each configuration, then the comparison of their predictions.
void run_window(models::CausalLM& model, Window window, const std::vector<NamedConfig>& configs,
                const std::string& kernel, Tally& dense, std::vector<Tally>& sparse) {
  sparsify(model, config::SparseAttentionConfig{}, {.kernel = kernel});
  const Forward dense_run = forward(model, window);
  dense.seconds += dense_run.seconds;
  std::vector<at::Tensor> hidden;
  for (std::size_t i = 0; i < configs.size(); ++i)
    hidden.push_back(run_sparse(model, window, configs[i].config, kernel, sparse[i]).hidden);
  const LogitComparison comparison = compare_logits(model, dense_run.hidden, hidden, window.subspan(1));
  dense.window_nll.push_back(mean(comparison.dense_nll));
  for (std::size_t i = 0; i < configs.size(); ++i) sparse[i].add(comparison.sparse[i]);
}

std::vector<std::vector<Window>> windows_by_length(const std::vector<std::vector<std::int64_t>>& rows,
                                                   const EvalOptions& options) {
  MODELOPT_CHECK(!options.seq_lens.empty(), InvalidArgument, "no window length is given, expected at least one");
  std::size_t longest = 0;
  for (const auto& row : rows) longest = std::max(longest, row.size());
  std::vector<std::vector<Window>> result;
  for (const std::int64_t length : options.seq_lens) {
    result.push_back(cut_windows(rows, length, options.windows));
    const std::size_t count = result.back().size();
    MODELOPT_CHECK(count > 0, InvalidArgument, "no window of ", length, " tokens: the longest text has ", longest);
    if (count < static_cast<std::size_t>(options.windows))
      log::warn(
          str("windows of ", length, " tokens: ", count, " instead of ", options.windows, ", the text has no more"));
  }
  return result;
}

// What only a first run does should be in no timing: reading weights that are mapped from a file; on a GPU loading
// kernels and taking memory from the driver, which depend on the length.
void warm_up(models::CausalLM& model, const std::vector<std::vector<Window>>& windows,
             const std::vector<NamedConfig>& configs, const std::string& kernel) {
  if (model.device().is_cpu()) {
    forward(model, windows.front().front().first(2));
    return;
  }
  for (const auto& of_length : windows) {
    Tally dense;
    std::vector<Tally> sparse(configs.size());
    run_window(model, of_length.front(), configs, kernel, dense, sparse);
  }
}

}  // namespace

std::vector<EvalResult> evaluate(models::CausalLM& model, const std::vector<std::vector<std::int64_t>>& rows,
                                 const std::vector<NamedConfig>& configs, const EvalOptions& options) {
  const at::NoGradGuard no_grad;
  const auto all_windows = windows_by_length(rows, options);
  std::int64_t total = 0;
  for (std::size_t i = 0; i < all_windows.size(); ++i)
    total += static_cast<std::int64_t>(all_windows[i].size()) * options.seq_lens[i];

  const DenseScope dense_scope(model);  // what it came with is no part of any run, nor of its warnings
  warm_up(model, all_windows, configs, options.kernel);

  std::vector<EvalResult> results;
  std::int64_t done = 0;
  for (std::size_t i = 0; i < all_windows.size(); ++i) {
    Tally dense;
    std::vector<Tally> sparse(configs.size());
    for (const Window window : all_windows[i]) {
      run_window(model, window, configs, options.kernel, dense, sparse);
      done += static_cast<std::int64_t>(window.size());
      if (options.progress) options.progress(done, total);
    }
    const EvalResult reference = dense_result(dense, options.seq_lens[i]);
    if (configs.empty()) results.push_back(reference);
    for (std::size_t c = 0; c < configs.size(); ++c)
      results.push_back(sparse_result(reference, sparse[c], configs[c].name));
  }
  return results;
}

nlohmann::ordered_json to_json(const EvalResult& result) {
  const auto nullable = [](const auto& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
  };
  return {{"config", nullable(result.config)},
          {"seq_len", result.seq_len},
          {"windows", result.windows},
          {"tokens", result.tokens},
          {"nll", result.nll},
          {"nll_se", nullable(result.nll_se)},
          {"ppl", result.ppl},
          {"dense_nll", result.dense_nll},
          {"dense_ppl", result.dense_ppl},
          {"kld_mean", nullable(result.kld_mean)},
          {"kld_se", nullable(result.kld_se)},
          {"kld_p99", nullable(result.kld_p99)},
          {"top1", nullable(result.top1)},
          {"kept_fraction", nullable(result.kept_fraction)},
          {"skipped_fraction", nullable(result.skipped_fraction)},
          {"seconds_dense", result.seconds_dense},
          {"seconds_sparse", nullable(result.seconds_sparse)}};
}

}  // namespace modelopt::eval
