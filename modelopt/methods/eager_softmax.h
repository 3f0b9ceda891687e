// The softmax of eager methods, once they have decided what is attended.
#pragma once

#include <ATen/core/Tensor.h>

#include <modelopt/attention/attention_plan.h>

namespace modelopt::methods {

/// Softmax over the visible keys of `selected`, bool [heads, rows, keys]. Rows that see a NaN or +inf score become NaN,
/// whether or not it is selected. The selection is a constant of the gradient.
[[nodiscard]] attention::EagerSoftmax softmax_over(const attention::EagerScores& scores, const at::Tensor& selected);

}  // namespace modelopt::methods
