// What one thread block of a kernel of this folder works on.
#pragma once

#include "kernels/cuda/attention_params.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/sm80/forward_params.h"

namespace modelopt::kernels::cuda::sm80 {

/// A tile of query rows of one head of one sequence.
struct BlockProblem {
  SequenceRange sequence;
  int batch = 0;
  int head = 0;
  int offset = 0;    ///< position of the sequence's first query row, Lk - Lq
  int tile_row = 0;  ///< position of the tile's first row, may be no row of the sequence
};

/// Tiles of kRows rows are aligned to absolute positions; those with the most keys (of a causal problem) come first. If
/// there is nothing to do, tile_row is beyond the sequence's last row.
template <int kRows>
__device__ inline BlockProblem block_problem(const ForwardParams& params) {
  const AttentionParams& p = params.attention;
  const auto tiles = static_cast<unsigned>(params.query_tiles);
  const int tile = static_cast<int>(tiles - 1 - blockIdx.x % tiles);
  const int head_of_batch = static_cast<int>(blockIdx.x / tiles);
  BlockProblem block;
  block.batch = head_of_batch / p.heads;
  block.head = head_of_batch % p.heads;
  block.sequence = sequence_range(p, block.batch);
  block.offset = block.sequence.k_len - block.sequence.q_len;
  block.tile_row = (floor_div(block.offset, kRows) + tile) * kRows;
  return block;
}

}  // namespace modelopt::kernels::cuda::sm80
