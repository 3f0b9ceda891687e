#include <modelopt/eval/logit_divergence.h>

#include <ATen/Parallel.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/log_softmax.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include <modelopt/error.h>
#include <modelopt/models/causal_lm.h>

namespace modelopt::eval {
namespace {

// Rows of the head's product at a time: enough for a full-speed matrix product, 50 MB of fp32 logits at a vocabulary of
// 49152.
constexpr std::int64_t kRows = 256;

// ln softmax of one row of logits, fp64 [vocab].
at::Tensor log_probabilities(const at::Tensor& logits) { return at::log_softmax(logits, -1, at::kDouble); }

// Lowest index of the largest value; at::argmax leaves open which of equal ones it returns.
std::int64_t most_likely(const at::Tensor& log_probs) {
  const double* begin = log_probs.const_data_ptr<double>();
  return std::max_element(begin, begin + log_probs.numel()) - begin;
}

void check_hidden(const models::CausalLM& model, const at::Tensor& hidden, std::int64_t rows) {
  const std::int64_t width = model.config().hidden_size;
  MODELOPT_CHECK(hidden.dim() == 2 && hidden.size(0) == rows && hidden.size(1) == width, InvalidArgument,
                 "hidden states are ", hidden.sizes(), ", expected [", rows, ", ", width, "]");
}

}  // namespace

LogitComparison compare_logits(const models::CausalLM& model, const at::Tensor& dense_hidden,
                               const std::vector<at::Tensor>& sparse_hidden, std::span<const std::int64_t> targets) {
  MODELOPT_CHECK(dense_hidden.dim() == 2, InvalidArgument, "hidden states have ", dense_hidden.dim(),
                 " dimensions, expected 2");
  const std::int64_t rows = dense_hidden.size(0);
  check_hidden(model, dense_hidden, rows);
  for (const auto& hidden : sparse_hidden) check_hidden(model, hidden, rows);
  MODELOPT_CHECK(targets.empty() || static_cast<std::int64_t>(targets.size()) == rows, InvalidArgument, targets.size(),
                 " targets for ", rows, " rows of hidden states");
  for (const std::int64_t target : targets)
    MODELOPT_CHECK(target >= 0 && target < model.config().vocab_size, InvalidArgument, "target ", target,
                   ", expected a token id below ", model.config().vocab_size);

  LogitComparison result;
  const auto n = static_cast<std::size_t>(rows);
  result.dense_nll.resize(targets.size());
  result.sparse.resize(sparse_hidden.size());
  for (auto& sparse : result.sparse) {
    sparse.nll.resize(targets.size());
    sparse.kld.resize(n);
    sparse.top1.resize(n);
  }

  std::atomic<bool> finite = true;
  for (std::int64_t first = 0; first < rows; first += kRows) {
    const std::int64_t count = std::min(kRows, rows - first);
    const at::Tensor dense_logits = model.logits(dense_hidden.narrow(0, first, count));
    std::vector<at::Tensor> sparse_logits;
    for (const auto& hidden : sparse_hidden) sparse_logits.push_back(model.logits(hidden.narrow(0, first, count)));
    // One row at a time and thread: its fp64 copies stay in the cache.
    at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const auto row = static_cast<std::size_t>(first + r);
        const at::Tensor dense = log_probabilities(dense_logits[r]);
        const at::Tensor probabilities = at::exp(dense);
        const std::int64_t best = most_likely(dense);
        if (!targets.empty()) result.dense_nll[row] = -dense.const_data_ptr<double>()[targets[row]];
        for (std::size_t i = 0; i < sparse_logits.size(); ++i) {
          const at::Tensor sparse = log_probabilities(sparse_logits[i][r]);
          LogitDivergence& out = result.sparse[i];
          if (!targets.empty()) out.nll[row] = -sparse.const_data_ptr<double>()[targets[row]];
          out.kld[row] = (probabilities * (dense - sparse)).sum().item<double>();
          out.top1[row] = most_likely(sparse) == best;
          if (!std::isfinite(out.kld[row])) finite = false;
        }
        if (!std::isfinite(dense.const_data_ptr<double>()[0])) finite = false;
      }
    });
  }
  MODELOPT_CHECK(finite, Error, "the model's logits are not finite, expected numbers");
  return result;
}

}  // namespace modelopt::eval
