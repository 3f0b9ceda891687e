// How far the predictions of a sparse model are from those of the dense one, position by position.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace modelopt::models {
class CausalLM;
}

namespace modelopt::eval {

/// Predictions of one model at n positions beside the dense model's. Natural logarithms, computed in fp64 from the
/// logits.
struct LogitDivergence {
  std::vector<double> nll;         ///< −ln p(target); empty without targets
  std::vector<double> kld;         ///< KL(dense ‖ this) = Σ p ln(p / q); never negative beyond rounding
  std::vector<std::uint8_t> top1;  ///< 1 where both find the same token most likely (equal logits: the lowest id)
};

struct LogitComparison {
  std::vector<double> dense_nll;        ///< empty without targets
  std::vector<LogitDivergence> sparse;  ///< one per sparse_hidden, in order
};

/// Applies the model's head to rows of hidden states, a few hundred at a time, so that all logits of a window are never
/// in memory.
///
/// dense_hidden, sparse_hidden[i]: [n, hidden_size] after the final norm. targets: the n ids that follow, or none.
/// Throws InvalidArgument for shapes that do not agree or a target out of the vocabulary, Error if a logit is not
/// finite.
[[nodiscard]] LogitComparison compare_logits(const models::CausalLM& model, const at::Tensor& dense_hidden,
                                             const std::vector<at::Tensor>& sparse_hidden,
                                             std::span<const std::int64_t> targets);

}  // namespace modelopt::eval
