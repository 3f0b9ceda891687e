// Blocks of query rows and keys (semantics: skip-softmax blocks): which hold a visible pair, for the statistics, which
// some row attends to, for skipping, and how far they lie behind, for calibration.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_params.h"
#include "kernels/cuda/launch.h"
#if defined(__CUDACC__)
#include "kernels/cuda/device_math.cuh"
#endif

namespace modelopt::kernels::cuda {

/// One element for each pair of blocks of each sequence and head: [batch, heads, query_blocks, key_blocks].
struct VisibleBlocks {
  std::uint8_t* marks = nullptr;     ///< with statistics: set where a row sees a key
  std::uint8_t* attended = nullptr;  ///< with skip-softmax: set where a row that sees a key votes against skipping
  int query_blocks = 0;
  int key_blocks = 0;
  /// With calibration: ordered_bits() of the largest skip_difference() of the rows that see a key, 0 where none does.
  std::uint32_t* differences = nullptr;

  /// Index of the first pair of a sequence and head.
  [[nodiscard]] MODELOPT_HOST_DEVICE constexpr std::int64_t first_of(const AttentionParams& p, int sequence,
                                                                     int head) const {
    return (std::int64_t{sequence} * p.heads + head) * query_blocks * key_blocks;
  }
};

/// Zeroed memory for one launch: marks if params.stats is wanted, attended if params.skips().
[[nodiscard]] VisibleBlocks allocate_visible_blocks(const AttentionParams& params, const Workspace& workspace,
                                                    cudaStream_t stream);

/// Zeroed memory for the differences of one launch: 4 bytes a pair of blocks.
[[nodiscard]] VisibleBlocks allocate_block_differences(const AttentionParams& params, const Workspace& workspace,
                                                       cudaStream_t stream);

/// Adds the visible blocks up into column 0 of params.stats and those that are skipped into column 1.
void count_visible_blocks(const AttentionParams& params, const VisibleBlocks& blocks, cudaStream_t stream);

#if defined(__CUDACC__)
/// Index of the pair of blocks of the row at `position` and of the eight keys from `first_key` (a multiple of 8: they
/// lie in one block). `offset` is the position of the sequence's first row.
__device__ inline std::int64_t block_index(const VisibleBlocks& blocks, const AttentionParams& p, int sequence,
                                           int head, int offset, int position, int first_key) {
  const int query_block = floor_div(position, p.skip_br) - floor_div(offset, p.skip_br);
  return blocks.first_of(p, sequence, head) + std::int64_t{query_block} * blocks.key_blocks + first_key / p.skip_bc;
}

/// Marks a pair of blocks as visible.
__device__ inline void mark_visible_block(const VisibleBlocks& blocks, const AttentionParams& p, int sequence, int head,
                                          int offset, int position, int first_key) {
  blocks.marks[block_index(blocks, p, sequence, head, offset, position, first_key)] = 1;
}
#endif

}  // namespace modelopt::kernels::cuda
