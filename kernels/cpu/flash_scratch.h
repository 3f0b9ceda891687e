// The working memory of one task.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention_call.h"
#include "kernels/cpu/tile_select.h"

namespace modelopt::kernels::cpu {

/// Keys are clipped and padded in pieces of this many: whole groups of 4 and of 8.
inline constexpr int kSubtile = 8;

constexpr std::int64_t round_up(std::int64_t x, std::int64_t multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

/// Arrays in one piece of memory, each aligned to 64 bytes; without memory only their size counts.
///
/// Lanes are (row, head) pairs. They go in blocks of kMaxVectors vectors; q and out hold one block after another.
template <class V>
class FlashScratch {
 public:
  using T = typename V::Scalar;
  static constexpr int kBlockLanes = V::kMaxVectors * V::kLanes;
  using Range = LaneRange<T, kBlockLanes>;
  static constexpr int kTileBlocks = kKeyTile / kSubtile;  ///< a key block of skip-softmax has 8 keys at least

  FlashScratch(void* memory, std::int64_t head_dim, std::int64_t lanes) : base_(static_cast<char*>(memory)) {
    const std::int64_t padded_lanes = round_up(lanes, V::kLanes);
    const std::int64_t padded_dim = round_up(head_dim, kSubtile);
    k_tile = take<T>(kKeyTile * padded_dim);
    v_tile = take<T>(kKeyTile * padded_dim);
    scores = take<T>(kKeyTile * kBlockLanes);
    tile_scores = take<T>(kKeyTile * padded_lanes);
    row = take<T>(padded_dim);
    visible = take<Range>(1);
    dense = take<DenseKeys<Range>>(1);
    q = take<T>(padded_lanes * head_dim);
    out = take<T>(padded_lanes * padded_dim);
    max = take<T>(padded_lanes);
    sum = take<T>(padded_lanes);
    running_max = take<T>(padded_lanes);
    block_max = take<T>(kTileBlocks * padded_lanes);
    sees = take<T>(kTileBlocks * padded_lanes);
    position = take<std::int64_t>(padded_lanes);
    result_row = take<std::int64_t>(padded_lanes);
  }

  [[nodiscard]] std::size_t bytes() const { return used_; }

  T* k_tile;                 ///< [kKeyTile, padded_dim]
  T* v_tile;                 ///< [kKeyTile, padded_dim]
  T* scores;                 ///< [kKeyTile, lanes of a block]
  T* tile_scores;            ///< blocks of [kKeyTile, lanes]: the tile that skip-softmax voted on last
  T* row;                    ///< [padded_dim]
  Range* visible;            ///< keys of the tile that each lane of a block may see
  DenseKeys<Range>* dense;   ///< keys of the tile that each lane attends without being selected
  T* q;                      ///< blocks of [head_dim, lanes]
  T* out;                    ///< blocks of [padded_dim, lanes]
  T* max;                    ///< [lanes] largest attended score so far, unscaled
  T* sum;                    ///< [lanes] sum of the weights relative to it
  T* running_max;            ///< [lanes] largest visible score so far (skip-softmax, as the next two)
  T* block_max;              ///< [key blocks of a tile][lanes] largest visible score of the key block
  T* sees;                   ///< [key blocks of a tile][lanes] 1 if the row sees a key of the key block, else 0
  std::int64_t* position;    ///< [lanes] absolute position of the row
  std::int64_t* result_row;  ///< [lanes] index into the results, as [total_q * num_heads]

 private:
  template <typename Item>
  Item* take(std::int64_t count) {
    Item* const taken = reinterpret_cast<Item*>(base_ + used_);
    used_ += static_cast<std::size_t>(round_up(static_cast<std::int64_t>(sizeof(Item)) * count, 64));
    return taken;
  }

  char* base_;
  std::size_t used_ = 0;
};

}  // namespace modelopt::kernels::cpu
