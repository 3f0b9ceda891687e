#include <modelopt/methods/nm_softmax.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>

#include <limits>
#include <vector>

#include <modelopt/methods/eager_softmax.h>

namespace modelopt::methods {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// bool [Lq, Lk]: sink tokens, and the window that ends at the row's own position.
at::Tensor dense_keys(const attention::EagerScores& scores, const config::SparseSoftmaxConfig& parameters) {
  const auto options = scores.raw.options().dtype(at::kLong);
  const at::Tensor position = (at::arange(scores.raw.size(-2), options) + scores.first_position).unsqueeze(1);
  const at::Tensor key = at::arange(scores.raw.size(-1), options).unsqueeze(0);
  const at::Tensor distance = position - key;
  return (key < parameters.num_sink_tokens) | ((distance >= 0) & (distance < parameters.dense_window_size));
}

}  // namespace

at::Tensor keep_n_of_m(const at::Tensor& scores, std::int64_t n, std::int64_t m) {
  const std::int64_t keys = scores.size(-1);
  const at::Tensor padded = at::constant_pad_nd(scores.detach(), {0, (m - keys % m) % m}, -kInfinity);
  const std::vector<at::Tensor> score = padded.unflatten(-1, {-1, m}).unbind(-1);  // m times [..., groups]
  std::vector<at::Tensor> candidate, better;
  for (const at::Tensor& column : score) {
    candidate.push_back(column != -kInfinity);
    better.push_back(at::zeros_like(column, column.options().dtype(at::kChar)));
  }
  for (std::size_t i = 0; i < score.size(); ++i) {
    for (std::size_t j = i + 1; j < score.size(); ++j) {
      const at::Tensor j_wins = score[i] < score[j];  // equal scores: the lower index wins
      better[i] += candidate[j] & j_wins;
      better[j] += candidate[i] & ~j_wins;
    }
  }
  for (std::size_t i = 0; i < score.size(); ++i) candidate[i] &= better[i] < n;
  return at::stack(candidate, -1).flatten(-2).narrow(-1, 0, keys);
}

at::Tensor selected_keys(const attention::EagerScores& scores, const config::SparseSoftmaxConfig& parameters) {
  return keep_n_of_m(scores.raw, parameters.sparsity_n, parameters.sparsity_m) | dense_keys(scores, parameters);
}

attention::EagerSoftmax nm_softmax(const attention::EagerScores& scores,
                                   const config::SparseSoftmaxConfig& parameters) {
  return softmax_over(scores, selected_keys(scores, parameters));
}

void select_in_operator(attention::AttentionPlan& plan, const config::SparseSoftmaxConfig& parameters) {
  plan.sparsity_n = parameters.sparsity_n;
  plan.sparsity_m = parameters.sparsity_m;
  plan.num_sink_tokens = parameters.num_sink_tokens;
  plan.dense_window_size = parameters.dense_window_size;
}

}  // namespace modelopt::methods
