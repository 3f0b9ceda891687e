// How one attention forward will be computed. A method edits the plan while its scope is active.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <modelopt/attention/attention_call.h>

namespace modelopt::attention {

/// Scores of one sequence that an eager method turns into probabilities: some consecutive query rows (whole query
/// blocks of AttentionPlan::skip_softmax_br rows, as far as they are in the call) and some query heads, against the
/// keys from 0 up to the last one that these rows can see.
struct EagerScores {
  at::Tensor raw;  ///< [heads, rows, keys] unscaled scores q.k, fp32 (fp64 for fp64 inputs), strides free; -inf where a
                   ///< key is not visible
  double scale = 1.0;               ///< softmax uses scale * raw
  std::int64_t first_position = 0;  ///< absolute position of row 0
  std::size_t sequence = 0;         ///< index in the batch
};

/// What an eager softmax returns.
struct EagerSoftmax {
  at::Tensor probabilities;  ///< [heads, rows, keys], 0 where not attended; rows that attend nothing are all 0
  at::Tensor attended;       ///< bool [heads, rows, keys]
};

using SoftmaxFunction = std::function<EagerSoftmax(const EagerScores&)>;

/// The default plan is dense attention on the operator.
struct AttentionPlan {
  std::string kernel = "auto";  ///< backend of the operator
  bool collect_stats = false;
  // parameters of the operator, see modelopt/kernels/attention.h
  std::int64_t sparsity_n = 0;
  std::int64_t sparsity_m = 4;
  std::int64_t num_sink_tokens = 0;
  std::int64_t dense_window_size = 64;
  std::optional<double> skip_softmax_threshold;
  std::optional<at::Tensor> skip_softmax_lambda;  ///< fp32 [B] on q's device, instead of the threshold
  std::int64_t skip_softmax_br = 128;
  std::int64_t skip_softmax_bc = 128;
  /// Thresholds that are not applied: with collect_stats, the blocks that each would skip are counted in a pass beside.
  std::vector<double> trial_thresholds;
  /// Set: attention is computed eagerly (scores, this softmax, product with V) instead of by the operator.
  SoftmaxFunction softmax;
  /// Set: this computes the call, [total_q, Hq, D], and nothing else of the plan applies: for methods that measure.
  std::function<at::Tensor(const AttentionCall&)> attention;
};

}  // namespace modelopt::attention
