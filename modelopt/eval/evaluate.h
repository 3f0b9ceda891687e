// Dense and sparse models side by side on windows of text.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include <modelopt/config/sparse_config.h>
#include <modelopt/eval/attention_statistics.h>

namespace modelopt::models {
class CausalLM;
}

namespace modelopt::eval {

struct NamedConfig {
  std::string name;  ///< as reports call it
  config::SparseAttentionConfig config;
};

struct EvalOptions {
  std::vector<std::int64_t> seq_lens = {2048};  ///< window lengths, each >= 2
  std::int64_t windows = 0;                     ///< at most so many per length; 0: all
  /// Backend of the attention operator. On a GPU attended pairs are counted in a run of their own, on the backend that
  /// counts.
  std::string kernel = "auto";
  /// Called after each window with the tokens done so far and in total, over all lengths.
  std::function<void(std::int64_t done, std::int64_t total)> progress;
};

/// Means over tokens; standard errors are those of the per-window means, absent for one window. Natural logarithms.
struct EvalResult {
  std::optional<std::string> config;  ///< absent: the dense model alone
  std::int64_t seq_len = 0;
  std::int64_t windows = 0;
  std::int64_t tokens = 0;  ///< predictions: windows · (seq_len − 1)
  double nll = 0.0;         ///< negative log-likelihood per token
  std::optional<double> nll_se;
  double ppl = 0.0;  ///< exp(nll)
  double dense_nll = 0.0;
  std::optional<double> dense_nll_se;
  double dense_ppl = 0.0;
  double seconds_dense = 0.0;  ///< forward passes of all windows, without the head
  // Against the dense model; absent where there is only that.
  std::optional<double> kld_mean;  ///< KL(dense ‖ sparse)
  std::optional<double> kld_se;
  std::optional<double> kld_p99;  ///< 99th percentile over tokens
  std::optional<double> top1;     ///< share of tokens with the same most likely prediction
  std::optional<double> top1_se;
  std::optional<double> kept_fraction;     ///< attended / visible pairs of query and key, over all attention modules
  std::optional<double> skipped_fraction;  ///< skipped / visible blocks
  std::optional<double> seconds_sparse;
  AttentionStatistics statistics;  ///< of the configuration, over all windows; not in to_json
};

/// Runs each window once dense and once per configuration. Of one window, hidden states are in memory, logits only in
/// pieces.
///
/// rows: token ids of each text, see cut_windows. Without configurations, one result per length for the dense model
/// alone. Returns results in the order of lengths, then configurations. The model is left without sparsity. Throws
/// InvalidArgument for a length no row reaches, and what sparsify() throws.
[[nodiscard]] std::vector<EvalResult> evaluate(models::CausalLM& model,
                                               const std::vector<std::vector<std::int64_t>>& rows,
                                               const std::vector<NamedConfig>& configs, const EvalOptions& options);

/// {"config": …, "seq_len": …, …}: the fields of docs/cli.md, null where absent.
[[nodiscard]] nlohmann::ordered_json to_json(const EvalResult& result);

}  // namespace modelopt::eval
