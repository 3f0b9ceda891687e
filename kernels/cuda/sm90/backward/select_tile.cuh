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

/// A tile's attended keys: of block b of 16 keys the nibble of the thread's group, in the low half of word b / 4 for
/// row r, in the high half for row r + 8.
template <typename Traits>
struct SelectedBits {
  static constexpr int kBlocks = Traits::kColumns / kSelectionBlock;
  static constexpr int kWords = (kBlocks + 3) / 4;
  std::uint32_t word[kWords] = {};
};

/// Drops two of four scores: they become -inf. Adds 1, 2, 4 and 8 times `unit` to `kept` for keys 0 to 3 if they are
/// kept. The larger of a pair goes if both of the other pair are larger (`first`, `second`: both of that pair stay),
/// the smaller one unless both of its own pair stay. Predicated additions, because the pipe of comparisons and selects
/// is the narrow one. A row with NaN is NaN by its log-sum-exp.
__device__ __forceinline__ void drop_2of4(float& x0, float& x1, float& x2, float& x3, float unit, float& kept) {
  asm("{\n"
      ".reg .pred first, second, up0, up1, not_up0, not_up1, stays0, stays1, stays2, stays3, other;\n"
      ".reg .f32 high0, high1, low0, low1;\n"
      "setp.gt.f32 up0, %1, %0;\n"
      "setp.gt.f32 up1, %3, %2;\n"
      "max.f32 high0, %0, %1;\n"
      "min.f32 low0, %0, %1;\n"
      "max.f32 high1, %2, %3;\n"
      "min.f32 low1, %2, %3;\n"
      "setp.ge.f32 first, low0, high1;\n"
      "setp.gt.f32 second, low1, high0;\n"
      "not.pred not_up0, up0;\n"
      "not.pred not_up1, up1;\n"
      // the larger of keys 0, 1 stays unless `second`, the smaller if `first`; likewise for keys 2, 3
      "not.pred other, second;\n"
      "and.pred stays0, other, not_up0;\n"
      "or.pred stays0, stays0, first;\n"
      "and.pred stays1, other, up0;\n"
      "or.pred stays1, stays1, first;\n"
      "not.pred other, first;\n"
      "and.pred stays2, other, not_up1;\n"
      "or.pred stays2, stays2, second;\n"
      "and.pred stays3, other, up1;\n"
      "or.pred stays3, stays3, second;\n"
      "@stays0 add.f32 %4, %4, %5;\n"
      "@!stays0 add.f32 %0, %0, 0fFF800000;\n"
      "@stays1 add.f32 %4, %4, %6;\n"
      "@!stays1 add.f32 %1, %1, 0fFF800000;\n"
      "@stays2 add.f32 %4, %4, %7;\n"
      "@!stays2 add.f32 %2, %2, 0fFF800000;\n"
      "@stays3 add.f32 %4, %4, %8;\n"
      "@!stays3 add.f32 %3, %3, 0fFF800000;\n"
      "}\n"
      : "+f"(x0), "+f"(x1), "+f"(x2), "+f"(x3), "+f"(kept)
      : "f"(unit), "f"(2.0f * unit), "f"(4.0f * unit), "f"(8.0f * unit));
}

/// 2:4 where it alone decides.
template <typename Traits>
__device__ __forceinline__ SelectedBits<Traits> select_clean_2of4(float (&s)[Traits::kScores]) {
  SelectedBits<Traits> bits;
#pragma unroll
  for (int w = 0; w < SelectedBits<Traits>::kWords; ++w) {
    float kept[2] = {kNibbles, kNibbles};
#pragma unroll
    for (int i = 0; i < 4 && 4 * w + i < SelectedBits<Traits>::kBlocks; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int at = 8 * (4 * w + i) + 2 * h;
        drop_2of4(s[at], s[at + 1], s[at + 4], s[at + 5], static_cast<float>(1 << (4 * i)), kept[h]);
      }
    }
    bits.word[w] = permute_bytes(__float_as_uint(kept[0]), __float_as_uint(kept[1]), 0x5410);
  }
  return bits;
}

/// The bits of scores that are not -inf.
template <typename Traits>
__device__ __forceinline__ SelectedBits<Traits> bits_of_scores(const float (&s)[Traits::kScores]) {
  SelectedBits<Traits> bits;
#pragma unroll
  for (int b = 0; b < Traits::kScores / 4; ++b) {
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      const int bit = 16 * (u >> 1) + (2 * b + (u & 1)) % 16;
      if (s[4 * b + u] != kNegativeInfinity<float>) bits.word[b / 8] |= 1u << bit;
    }
  }
  return bits;
}

/// Scores that are not attended become -inf.
template <typename Traits>
__device__ __forceinline__ SelectedBits<Traits> select_scores(float (&s)[Traits::kScores], const AttentionParams& p,
                                                              const SelectedTile& tile, int quad_lane) {
  if (p.sparsity_n == 2 && selection_decides<Traits>(p, tile)) return select_clean_2of4<Traits>(s);
  using Selection = SelectionTraits<Traits>;
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
  return bits_of_scores<Traits>(s);
}

/// Writes a tile's bits. `mask_rows` are those of the thread's two rows, null for one that does not exist; they have
/// `bytes` bytes. All lanes of a warp call it.
template <typename Traits>
__device__ __forceinline__ void write_selected_bits(const SelectedBits<Traits>& bits,
                                                    std::uint8_t* const (&mask_rows)[2], int bytes, int first_key,
                                                    int quad_lane) {
#pragma unroll
  for (int w = 0; w < SelectedBits<Traits>::kWords; ++w) {
    // lane c gets its rows' bits of the 16 keys of block 4w + c
    const std::uint32_t keys = transpose_nibbles(bits.word[w], quad_lane);
    const int byte = first_key / 8 + 8 * w + 2 * quad_lane;
    if (4 * w + quad_lane >= SelectedBits<Traits>::kBlocks || byte >= bytes) continue;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (mask_rows[h] == nullptr) continue;
      *reinterpret_cast<std::uint16_t*>(mask_rows[h] + byte) = static_cast<std::uint16_t>(keys >> (16 * h));
    }
  }
}

}  // namespace modelopt::kernels::cuda::sm90
