#include <modelopt/methods/nm_softmax.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>

#include <limits>
#include <vector>

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

attention::EagerSoftmax nm_softmax(const attention::EagerScores& scores,
                                   const config::SparseSoftmaxConfig& parameters) {
  const at::Tensor visible = scores.raw != -kInfinity;
  const at::Tensor kept = keep_n_of_m(scores.raw, parameters.sparsity_n, parameters.sparsity_m);
  const at::Tensor attended = visible & (kept | dense_keys(scores, parameters));
  const at::Tensor softmax = at::softmax((scores.raw * scores.scale).masked_fill(~attended, -kInfinity), -1);
  // the softmax of a row of -inf is NaN, and a selection may have dropped the NaN or +inf that a row sees
  const at::Tensor poisoned = (scores.raw.isnan() | (scores.raw == kInfinity)).any(-1, /*keepdim=*/true);
  const at::Tensor probabilities =
      softmax.masked_fill(~attended, 0.0).masked_fill(poisoned, std::numeric_limits<double>::quiet_NaN());
  return {.probabilities = probabilities, .attended = attended};
}

}  // namespace modelopt::methods
