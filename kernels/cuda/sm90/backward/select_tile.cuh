// N:M selection inside the backward: what the forward attended to, from scores with the bits of the forward's. The
// tiles are the forward's, product by product (flash_forward.cuh: keys of a tile, their permutation, steps of 16 over
// head_dim), and so are the functions that select.
#pragma once

#include <cstdint>

#include "kernels/cuda/sm90/backward/backward_traits.h"
#include "kernels/cuda/sm90/schedule.h"
#include "kernels/cuda/sm90/softmax.h"

namespace modelopt::kernels::cuda::sm90 {

/// One warpgroup's tile of scores, as the functions of softmax.h take it.
template <typename Backward>
struct SelectionTraits {
  static constexpr Pattern kPattern = Pattern::kSparse2of4;  ///< the layout of 1:4 is the same
  static constexpr int kKeys = Backward::kColumns;
  static constexpr int kScores = Backward::kScores;
  static constexpr int kBlock = kSelectionBlock;
  static constexpr bool kPermutedKeys = true;
};

/// Where a tile's rows and keys lie.
struct SelectedTile {
  SequenceRows rows;   ///< k_len and dense_keys are read
  int block_position;  ///< absolute position of the warpgroup's first row
  int warp_position;   ///< of the warp's
  int position;        ///< of the thread's first row; the other one is 8 further on
  int first_key;
  bool all_visible;  ///< every row of the warpgroup sees every key of the tile
};

/// Whether N:M alone decides in a tile: every key is visible, none is dense.
template <typename Traits>
__device__ __forceinline__ bool selection_decides(const AttentionParams& p, const SelectedTile& tile) {
  const int last_key = tile.first_key + Traits::kColumns - 1;
  const int last_position = tile.block_position + Traits::kWarpgroupRows - 1;
  const bool outside_window = p.dense_window_size == 0 || tile.block_position - last_key >= p.dense_window_size ||
                              tile.first_key > last_position;
  return tile.all_visible && tile.first_key >= tile.rows.dense_keys && outside_window;
}

/// Scores that are not attended become -inf.
template <typename Traits>
__device__ __forceinline__ void select_scores(float (&s)[Traits::kScores], const AttentionParams& p,
                                              const SelectedTile& tile, int quad_lane) {
  using Selection = SelectionTraits<Traits>;
  if (selection_decides<Traits>(p, tile)) {
    if (p.sparsity_n == 1) {
      drop_clean_keys<Selection, 4, 1>(s, 1);
    } else {
      drop_clean_keys<Selection, 4, 2>(s, 2);
    }
    return;
  }
  const int offset = tile.first_key + quad_lane * KeyLayout<Selection>::kPerThread;
  const RowLimits limits[2] = {limits_of(p, tile.rows, tile.position, offset),
                               limits_of(p, tile.rows, tile.position + 8, offset)};
  if (!tile.all_visible) hide_keys<Selection, true>(s, limits);
  if (p.sparsity_n == 1) {
    drop_keys<Selection, 4, 1, true, false>(s, p, limits, tile.rows.dense_keys, tile.warp_position, tile.first_key,
                                            offset);
  } else {
    drop_keys<Selection, 4, 2, true, false>(s, p, limits, tile.rows.dense_keys, tile.warp_position, tile.first_key,
                                            offset);
  }
}

/// Writes the bits of scores that are not -inf. `mask_rows` are those of the thread's two rows, null for one that does
/// not exist; they have `bytes` bytes. All lanes of a warp call it.
template <typename Traits>
__device__ __forceinline__ void write_selected_bits(const float (&s)[Traits::kScores],
                                                    std::uint8_t* const (&mask_rows)[2], int bytes, int first_key,
                                                    int quad_lane) {
  constexpr int kBlocks = Traits::kColumns / kSelectionBlock;
  std::uint32_t nibbles[(kBlocks + 3) / 4] = {};  // of row r in the low, of row r + 8 in the high half
#pragma unroll
  for (int b = 0; b < Traits::kScores / 4; ++b) {
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      const int bit = 16 * (u >> 1) + (2 * b + (u & 1)) % 16;
      if (s[4 * b + u] != kNegativeInfinity<float>) nibbles[b / 8] |= 1u << bit;
    }
  }
#pragma unroll
  for (int w = 0; w < (kBlocks + 3) / 4; ++w) {
    // lane c gets its rows' bits of the 16 keys of block 4w + c
    const std::uint32_t keys = transpose_nibbles(nibbles[w], quad_lane);
    const int byte = first_key / 8 + 8 * w + 2 * quad_lane;
    if (4 * w + quad_lane >= kBlocks || byte >= bytes) continue;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (mask_rows[h] == nullptr) continue;
      *reinterpret_cast<std::uint16_t*>(mask_rows[h] + byte) = static_cast<std::uint16_t>(keys >> (16 * h));
    }
  }
}

}  // namespace modelopt::kernels::cuda::sm90
