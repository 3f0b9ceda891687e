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

/// How far a key block lies behind for one row: scale * (m - M), 0 or less, NaN for two infinite maxima.
///
/// `block_max` is m, the largest unscaled score of the row's visible keys of the block; `running_max` is M, the largest
/// one of all blocks up to and including it. Both maxima ignore NaN scores. The difference is taken before scaling,
/// both in the type of the scores (scale is rounded to it), then rounded to fp32: wherever the scores are exactly
/// representable, every backend decides alike.
template <typename Score>
[[nodiscard]] MODELOPT_HOST_DEVICE constexpr float skip_difference(Score block_max, Score running_max, Score scale) {
  return static_cast<float>(scale * (block_max - running_max));
}

/// The vote of a row with that difference: skip iff it is below ln(lambda). NaN never is. A larger difference never
/// turns a vote against skipping into one for it: the largest one of some rows votes as all of them together.
[[nodiscard]] MODELOPT_HOST_DEVICE constexpr bool votes_skip(float difference, float log_lambda) {
  return difference < log_lambda;
}

/// The vote of one row for skipping one key block. The block is skipped if every row of the query block in this call
/// that sees a key of the block votes so; rows that see none are not asked.
template <typename Score>
[[nodiscard]] MODELOPT_HOST_DEVICE constexpr bool row_votes_skip(Score block_max, Score running_max, Score scale,
                                                                 float log_lambda) {
  return votes_skip(skip_difference(block_max, running_max, scale), log_lambda);
}

}  // namespace modelopt::kernels
