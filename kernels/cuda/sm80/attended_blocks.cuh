// Skip-softmax in the forward kernels: which blocks are left, as the vote kernel found before.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_params.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/sm80/block_problem.cuh"
#include "kernels/cuda/sm80/forward_params.h"

namespace modelopt::kernels::cuda::sm80 {

/// The blocks of one head of one sequence that are not skipped.
class AttendedBlocks {
 public:
  /// How many of the blocks in a rectangle of rows and keys are attended.
  enum class Share { kNone, kSome, kAll };

  __device__ AttendedBlocks(const ForwardParams& params, const BlockProblem& block)
      : params_(params), first_position_(block.offset), k_len_(block.sequence.k_len) {
    const AttentionParams& p = params.attention;
    if (!skips_blocks(p, block.batch)) return;
    const std::int64_t first_row = std::int64_t{floor_div(block.offset, p.skip_br)} * params.visible_blocks.key_blocks;
    attended_ = params.visible_blocks.attended + params.visible_blocks.first_of(p, block.batch, block.head) - first_row;
  }

  /// False: nothing of the sequence is skipped, and all else of this class is undefined.
  [[nodiscard]] __device__ bool active() const { return attended_ != nullptr; }

  /// Whether the row at position p attends to the block of the eight keys from first_key on. Rows of no sequence do
  /// not.
  [[nodiscard]] __device__ bool attends(int p, int first_key) const {
    if (p < first_position_ || p >= k_len_ || first_key >= k_len_) return false;
    return mark(query_block(p), key_block(first_key));
  }

  /// Of the rows of the sequence at positions first_row … last_row. All lanes of a warp call it alike.
  [[nodiscard]] __device__ Share share(int first_row, int last_row, int first_key, int last_key) const {
    const Rectangle blocks = rectangle(first_row, last_row, first_key, last_key);
    const int columns = blocks.last_column - blocks.first_column + 1;
    const int count = (blocks.last_row - blocks.first_row + 1) * columns;
    bool some = false, all = count > 0;
    for (int i = static_cast<int>(threadIdx.x) % 32; i < count; i += 32) {
      const bool attended = mark(blocks.first_row + i / columns, blocks.first_column + i % columns);
      some = some || attended;
      all = all && attended;
    }
    if (__any_sync(0xFFFFFFFFu, some) == 0) return Share::kNone;
    return __all_sync(0xFFFFFFFFu, all) != 0 ? Share::kAll : Share::kSome;
  }

  /// Whether some of them is attended, found by one lane.
  [[nodiscard]] __device__ bool any(int first_row, int last_row, int first_key, int last_key) const {
    const Rectangle blocks = rectangle(first_row, last_row, first_key, last_key);
    for (int row = blocks.first_row; row <= blocks.last_row; ++row) {
      for (int column = blocks.first_column; column <= blocks.last_column; ++column) {
        if (mark(row, column)) return true;
      }
    }
    return false;
  }

 private:
  struct Rectangle {
    int first_row, last_row, first_column, last_column;
  };
  [[nodiscard]] __device__ Rectangle rectangle(int first_row, int last_row, int first_key, int last_key) const {
    first_row = max(first_row, first_position_);
    last_row = min(last_row, k_len_ - 1);
    last_key = min(last_key, k_len_ - 1);
    if (first_row > last_row || first_key > last_key) return {0, -1, 0, -1};
    return {query_block(first_row), query_block(last_row), key_block(first_key), key_block(last_key)};
  }

  [[nodiscard]] __device__ bool mark(int query_block, int key_block) const {
    return attended_[std::int64_t{query_block} * params_.visible_blocks.key_blocks + key_block] != 0;
  }

  [[nodiscard]] __device__ int query_block(int p) const { return floor_div(p, params_.attention.skip_br); }
  [[nodiscard]] __device__ int key_block(int key) const { return key / params_.attention.skip_bc; }

  const ForwardParams& params_;
  const std::uint8_t* attended_ = nullptr;  ///< of the head and of the row of blocks at position 0
  int first_position_;                      ///< of the sequence's rows; the last one is at k_len_ - 1
  int k_len_;
};

/// Finds the tiles of kKeys keys that some row of a thread block attends to, in ascending order. All warps walk alike.
template <int kKeys>
class AttendedTiles {
 public:
  __device__ AttendedTiles(const AttendedBlocks& blocks, int first_row, int last_row, int end_key)
      : blocks_(blocks), first_row_(first_row), last_row_(last_row), end_key_(end_key) {}

  /// The first key of the first such tile from `key` on, or end_key or more if there is none. `key` never falls.
  __device__ int next(int key) {
    if (!blocks_.active()) return key;
    while (key < end_key_) {
      if (key >= window_ + 32 * kKeys) look_at(key);
      const std::uint32_t from_key = tiles_ >> ((key - window_) / kKeys);
      if (from_key != 0) return key + (__ffs(static_cast<int>(from_key)) - 1) * kKeys;
      key = window_ + 32 * kKeys;
    }
    return key;
  }

 private:
  /// Bit i of tiles_ becomes the tile at key + i kKeys.
  __device__ void look_at(int key) {
    window_ = key;
    const int own = key + static_cast<int>(threadIdx.x) % 32 * kKeys;
    tiles_ = __ballot_sync(0xFFFFFFFFu, own < end_key_ && blocks_.any(first_row_, last_row_, own, own + kKeys - 1));
  }

  const AttendedBlocks& blocks_;
  int first_row_, last_row_, end_key_;
  int window_ = -32 * kKeys;  ///< first key of the tiles that are known
  std::uint32_t tiles_ = 0;
};

}  // namespace modelopt::kernels::cuda::sm80
