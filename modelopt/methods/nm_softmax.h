// The N:M sparse softmax: on ATen operations, as the eager backends put it in place of the softmax, and as parameters
// of the operator.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include <modelopt/attention/attention_plan.h>
#include <modelopt/config/sparse_config.h>

namespace modelopt::methods {

/// kernels::keep_n_of_m over the last dimension of scores [..., Lk]: bool [..., Lk], true for the kept keys of each
/// group of m consecutive keys. A score of -inf is a key that is not visible; a last group with fewer than m keys is
/// filled up with such. m is 4 or 8, 0 <= n < m.
[[nodiscard]] at::Tensor keep_n_of_m(const at::Tensor& scores, std::int64_t n, std::int64_t m);

/// kept ∨ dense, docs/semantics.md: bool [heads, rows, keys]; keys that are not visible may be dense.
[[nodiscard]] at::Tensor selected_keys(const attention::EagerScores& scores,
                                       const config::SparseSoftmaxConfig& parameters);

/// Softmax over visible ∧ (kept ∨ dense).
[[nodiscard]] attention::EagerSoftmax nm_softmax(const attention::EagerScores& scores,
                                                 const config::SparseSoftmaxConfig& parameters);

/// Sets the operator's N:M parameters.
void select_in_operator(attention::AttentionPlan& plan, const config::SparseSoftmaxConfig& parameters);

}  // namespace modelopt::methods
