// The decision of skip-softmax (BLASST, arXiv 2512.12087) on ATen operations, for the eager methods.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include <modelopt/attention/attention_plan.h>

namespace modelopt::methods {

/// Blocks of br query rows by bc keys, counted from position 0 and key 0.
struct BlockSize {
  std::int64_t br = 128;
  std::int64_t bc = 128;
};

/// docs/semantics.md, "Skip-softmax": bool [heads, rows, keys], false for the keys of blocks that λ skips. The scores
/// hold all rows of their query blocks that are in the call. The decision is that of kernels/skip.h, bit for bit.
[[nodiscard]] at::Tensor keys_not_skipped(const attention::EagerScores& scores, double lambda, BlockSize size);

}  // namespace modelopt::methods
