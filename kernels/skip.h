// The one skip-softmax decision (BLASST, arXiv 2512.12087). Every backend but the scalar reference calls it.
#pragma once

#include <cmath>

#include "kernels/selection.h"  // MODELOPT_HOST_DEVICE

namespace modelopt::kernels {

/// ln(lambda) as the decision compares it: lambda is rounded to fp32 (a scalar threshold and a tensor of them decide
/// alike), its logarithm is taken in fp64 and rounded to fp32. lambda = 0 gives -inf, below which nothing lies.
[[nodiscard]] MODELOPT_HOST_DEVICE inline float skip_log_lambda(double lambda) {
  return static_cast<float>(std::log(static_cast<double>(static_cast<float>(lambda))));
}

/// The vote of one row for skipping one key block: scale * (m - M) < ln(lambda).
///
/// `block_max` is m, the largest unscaled score of the row's visible keys of the block; `running_max` is M, the largest
/// one of all blocks up to and including it. Both maxima ignore NaN scores. The block is skipped if every row of the
/// query block in this call that sees a key of the block votes so; rows that see none are not asked.
///
/// The difference is taken before scaling, both in the type of the scores (scale is rounded to it), then rounded to
/// fp32: wherever the scores are exactly representable, every backend decides alike. Two infinite maxima do not skip.
template <typename Score>
[[nodiscard]] MODELOPT_HOST_DEVICE constexpr bool row_votes_skip(Score block_max, Score running_max, Score scale,
                                                                 float log_lambda) {
  return static_cast<float>(scale * (block_max - running_max)) < log_lambda;
}

}  // namespace modelopt::kernels
