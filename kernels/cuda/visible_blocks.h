// Statistics: which blocks of query rows and keys hold a visible pair (semantics: skip-softmax blocks).
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_params.h"
#include "kernels/cuda/launch.h"
#if defined(__CUDACC__)
#include "kernels/cuda/device_math.cuh"
#endif

namespace modelopt::kernels::cuda {

/// One byte for each pair of blocks of each sequence and head; set where a key is visible.
struct VisibleBlocks {
  std::uint8_t* marks = nullptr;  ///< [batch, heads, query_blocks, key_blocks]
  int query_blocks = 0;
  int key_blocks = 0;
};

/// Zeroed memory for one launch.
[[nodiscard]] VisibleBlocks allocate_visible_blocks(const AttentionParams& params, const Workspace& workspace,
                                                    cudaStream_t stream);

/// Adds the marks up into column 0 of params.stats.
void count_visible_blocks(const AttentionParams& params, const VisibleBlocks& blocks, cudaStream_t stream);

#if defined(__CUDACC__)
/// Marks the block of the row at `position` and of the eight keys from `first_key` (a multiple of 8: they lie in one
/// block). `offset` is the position of the sequence's first row.
__device__ inline void mark_visible_block(const VisibleBlocks& blocks, const AttentionParams& p, int sequence, int head,
                                          int offset, int position, int first_key) {
  const int query_block = floor_div(position, p.skip_br) - floor_div(offset, p.skip_br);
  const std::int64_t of_head = std::int64_t{sequence} * p.heads + head;
  blocks.marks[(of_head * blocks.query_blocks + query_block) * blocks.key_blocks + first_key / p.skip_bc] = 1;
}
#endif

}  // namespace modelopt::kernels::cuda
