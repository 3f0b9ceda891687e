// Where the rows of one thread block leave their votes on key blocks (skip-softmax).
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_params.h"
#include "kernels/cuda/ordered_bits.h"
#include "kernels/cuda/sm80/block_problem.cuh"
#include "kernels/cuda/sm80/forward_params.h"
#include "kernels/cuda/visible_blocks.h"

namespace modelopt::kernels::cuda::sm80 {

/// Whether the rows of the sequence vote.
__device__ inline bool has_votes(const ForwardParams& params, int batch) {
  return params.visible_blocks.differences != nullptr || skips_blocks(params.attention, batch);
}

/// Goes through the key blocks in ascending order. Rows that do not exist have no vote. A calibration, which asks for
/// many thresholds at once, collects what they are compared with instead: the largest difference of a pair of blocks.
class VoteMarks {
 public:
  __device__ VoteMarks(const ForwardParams& params, const BlockProblem& block, int first_key)
      : params_(params),
        block_(block),
        log_lambda_(log_lambda_of(params.attention, block.batch)),
        block_end_((first_key / params.attention.skip_bc + 1) * params.attention.skip_bc) {}

  /// The first key after the current block.
  [[nodiscard]] __device__ int block_end() const { return block_end_; }
  __device__ void next_block() { block_end_ += params_.attention.skip_bc; }

  /// The vote of the row at position p, which sees a key of the current block.
  __device__ void vote(int p, float block_maximum, float running_maximum) const {
    const AttentionParams& attention = params_.attention;
    const VisibleBlocks& blocks = params_.visible_blocks;
    const float difference = skip_difference(block_maximum, running_maximum, attention.scale);
    if (!is_row(p) || (blocks.differences == nullptr && votes_skip(difference, log_lambda_))) return;
    const int first_key = block_end_ - attention.skip_bc;
    const std::int64_t index = block_index(blocks, attention, block_.batch, block_.head, block_.offset, p, first_key);
    if (blocks.differences != nullptr) {
      atomicMax(blocks.differences + index, ordered_bits(difference));
    } else {
      blocks.attended[index] = 1;
    }
  }

  /// The row's log-sum-exp becomes NaN if it is `poisoned`, else 0, until the forward kernel writes it.
  __device__ void leave_poison(int p, bool poisoned) const {
    if (!is_row(p)) return;
    const std::int64_t row = std::int64_t{block_.sequence.q_start} + p - block_.offset;
    params_.attention.logsumexp[row * params_.attention.heads + block_.head] =
        poisoned ? __int_as_float(0x7fffffff) : 0.0f;
  }

 private:
  [[nodiscard]] __device__ bool is_row(int p) const {
    return p >= block_.offset && p < block_.offset + block_.sequence.q_len;
  }

  const ForwardParams& params_;
  const BlockProblem& block_;
  float log_lambda_;
  int block_end_;
};

}  // namespace modelopt::kernels::cuda::sm80
