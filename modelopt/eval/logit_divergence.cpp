#include <modelopt/eval/logit_divergence.h>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/max.h>

#include <algorithm>
#include <atomic>
#include <tuple>

#include <modelopt/error.h>
#include <modelopt/models/causal_lm.h>
#include <modelopt/models/to_device.h>
#include <modelopt/util/device.h>

namespace modelopt::eval {
namespace {

// Rows of the head's product at a time: enough for a full-speed matrix product, 50 MB of fp32 logits at a vocabulary of
// 49152.
constexpr std::int64_t kRows = 256;

// Some rows of predictions of one model.
struct Predictions {
  at::Tensor log_probs;  // ln softmax of the logits, fp64 [rows, vocab]
  at::Tensor nll;        // fp64 [rows]; undefined without targets
  at::Tensor highest;    // fp64 [rows]: the largest log_probs
  at::Tensor best;       // int64 [rows]: where it is, the lowest index among equals
};

Predictions predictions(const at::Tensor& logits, const at::Tensor& targets) {
  Predictions result;
  result.log_probs = at::log_softmax(logits, -1, at::kDouble);
  if (targets.defined()) result.nll = -result.log_probs.gather(1, targets.unsqueeze(1)).squeeze(1);
  std::tie(result.highest, result.best) = at::max(result.log_probs, 1);
  return result;
}

// Figures of some rows, brought to the host; nothing where they are undefined.
template <typename T>
void store(const at::Tensor& figures, std::vector<T>& out, std::int64_t first) {
  if (!figures.defined()) return;
  const at::Tensor host = figures.to(at::kCPU, c10::CppTypeToScalarType<T>::value).contiguous();
  std::copy_n(host.const_data_ptr<T>(), host.numel(), out.begin() + first);
}

// Logits of consecutive positions, and what follows them.
struct Piece {
  std::int64_t first;  // position of the first row
  at::Tensor dense_logits;
  std::vector<at::Tensor> sparse_logits;
  at::Tensor targets;  // int64, undefined without targets

  Piece rows(std::int64_t begin, std::int64_t count) const {
    const auto part = [&](const at::Tensor& all) { return all.defined() ? all.narrow(0, begin, count) : all; };
    Piece piece{.first = first + begin, .dense_logits = part(dense_logits), .targets = part(targets)};
    for (const at::Tensor& logits : sparse_logits) piece.sparse_logits.push_back(part(logits));
    return piece;
  }
};

// Fills the piece's positions of the result; false if a logit is not finite.
bool compare_rows(const Piece& piece, LogitComparison& result) {
  const Predictions dense = predictions(piece.dense_logits, piece.targets);
  const at::Tensor probabilities = at::exp(dense.log_probs);
  at::Tensor finite = dense.highest.isfinite().all();
  store(dense.nll, result.dense_nll, piece.first);
  for (std::size_t i = 0; i < piece.sparse_logits.size(); ++i) {
    const Predictions sparse = predictions(piece.sparse_logits[i], piece.targets);
    const at::Tensor kld = (probabilities * (dense.log_probs - sparse.log_probs)).sum(1);
    finite &= kld.isfinite().all();
    LogitDivergence& out = result.sparse[i];
    store(sparse.nll, out.nll, piece.first);
    store(kld, out.kld, piece.first);
    store(sparse.best == dense.best, out.top1, piece.first);
  }
  return finite.item<bool>();
}

std::vector<at::Tensor> logits_of(const models::CausalLM& model, const std::vector<at::Tensor>& hidden,
                                  std::int64_t first, std::int64_t count) {
  std::vector<at::Tensor> logits;
  for (const at::Tensor& rows : hidden) logits.push_back(model.logits(rows.narrow(0, first, count)));
  return logits;
}

// Fills the result piece by piece; false if a logit is not finite.
bool compare_pieces(const models::CausalLM& model, const at::Tensor& dense_hidden,
                    const std::vector<at::Tensor>& sparse_hidden, const std::vector<std::int64_t>& targets,
                    LogitComparison& result) {
  const at::Tensor ids = targets.empty() ? at::Tensor() : models::to_device(targets, model.device());
  const std::int64_t rows = dense_hidden.size(0);
  std::atomic<bool> finite = true;
  for (std::int64_t first = 0; first < rows; first += kRows) {
    const std::int64_t count = std::min(kRows, rows - first);
    const Piece piece{.first = first,
                      .dense_logits = model.logits(dense_hidden.narrow(0, first, count)),
                      .sparse_logits = logits_of(model, sparse_hidden, first, count),
                      .targets = ids.defined() ? ids.narrow(0, first, count) : ids};
    // On the CPU one row at a time and thread: its fp64 copies stay in the cache.
    const std::int64_t step = model.device().is_cpu() ? 1 : count;
    at::parallel_for(0, count, step, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; row += step)
        if (!compare_rows(piece.rows(row, step), result)) finite = false;
    });
  }
  return finite;
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

  const auto describe = [&] { return modelopt::str("the comparison of ", rows, " predictions on ", model.device()); };
  const bool finite = with_device_errors(model.device(), describe, [&] {
    return compare_pieces(model, dense_hidden, sparse_hidden, {targets.begin(), targets.end()}, result);
  });
  MODELOPT_CHECK(finite, Error, "the model's logits are not finite, expected numbers");
  return result;
}

}  // namespace modelopt::eval
