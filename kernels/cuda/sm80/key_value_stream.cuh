// Rows of 16-bit elements from global to shared memory, and the ring through which the tiles of K and V stream.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_params.h"
#include "kernels/cuda/sm80/key_order.h"
#include "kernels/cuda/sm80/mma_sync.cuh"

namespace modelopt::kernels::cuda::sm80 {

/// The rows of one head of a packed tensor, as 16-bit words.
struct HeadRows {
  const std::uint16_t* data = nullptr;  ///< row 0
  std::int64_t row_stride = 0;
};

__device__ inline HeadRows head_rows(const void* data, Strides strides, int first_row, int head) {
  return {static_cast<const std::uint16_t*>(data) + first_row * strides.row + head * strides.head, strides.row};
}

/// Copies rows [row_begin, row_begin + kRows) to a tile of kPitch bytes a row. Rows outside [0, row_end) and elements
/// from head_dim on become 0; they are not read.
///
/// Every thread copies the same 16-byte chunk of every (kThreads / chunks)-th row, asynchronously if the addresses are
/// multiples of 16 bytes, otherwise element by element.
template <int kRows, int kHeadDim, int kPitch, int kThreads, bool kAnyAlignment, typename Swizzle>
__device__ void copy_rows(std::uint32_t tile, const HeadRows& rows, int row_begin, int row_end, int head_dim,
                          bool aligned, Swizzle swizzle) {
  constexpr int kChunks = kHeadDim / 8;
  constexpr int kStep = kThreads / kChunks;
  static_assert(kThreads % kChunks == 0 && kRows % kStep == 0);
  const int chunk = static_cast<int>(threadIdx.x) % kChunks;
  const int first = static_cast<int>(threadIdx.x) / kChunks;
  const int elements = min(max(head_dim - 8 * chunk, 0), 8);
  const std::uint16_t* source = rows.data + (row_begin + first) * rows.row_stride + 8 * chunk;
#pragma unroll
  for (int i = 0; i < kRows / kStep; ++i) {
    const int row = first + i * kStep;
    const bool inside = row_begin + row >= 0 && row_begin + row < row_end;
    const int count = inside ? elements : 0;
    const std::uint32_t target = tile + row * kPitch + 16 * swizzle(row, chunk);
    const std::uint16_t* from = source + i * kStep * rows.row_stride;
    if (!kAnyAlignment || aligned) {
      copy_async_16(target, count > 0 ? from : rows.data, 2 * count);
      continue;
    }
    std::uint32_t words[4] = {};
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      if (e < count) words[e / 2] |= static_cast<std::uint32_t>(from[e]) << (16 * (e % 2));
    }
    store_shared_16(target, words);
  }
}

/// The tiles K0 V0 K1 V1 … of one head, through a ring of shared-memory slots.
///
/// next_keys() and next_values() are called in turns by the whole block. Each waits for its tile, makes it visible to
/// all threads, and starts the copy of the tile that is C::kSlots - 1 further on, into the slot of the tile before: the
/// barrier that publishes this tile also says that all warps are done with that one. So one barrier per tile.
template <class C>
class KeyValueStream {
 public:
  __device__ KeyValueStream(std::uint32_t slots, const HeadRows& keys, const HeadRows& values, int k_len, int head_dim,
                            bool aligned, int first_tile, int end_tile)
      : slots_(slots),
        keys_(keys),
        values_(values),
        k_len_(k_len),
        head_dim_(head_dim),
        aligned_(aligned),
        key_tile_(first_tile),
        value_tile_(first_tile),
        end_tile_(end_tile) {}

  /// Starts the first kSlots - 1 copies. Copies begun before by the caller are part of the first one.
  __device__ void start() {
    fill(slots_, keys_, key_tile_);
    if constexpr (C::kSlots == 3) fill(slots_ + C::kTileBytes, values_, value_tile_);
  }

  __device__ std::uint32_t next_keys() {
    if constexpr (C::kSlots == 3) return next(keys_, key_tile_);
    return next(values_, value_tile_);
  }

  __device__ std::uint32_t next_values() {
    if constexpr (C::kSlots == 3) return next(values_, value_tile_);
    return next(keys_, key_tile_);
  }

 private:
  static_assert(C::kSlots == 2 || C::kSlots == 3, "the tile to copy is of the other or of the same kind");

  __device__ std::uint32_t next(const HeadRows& refilled, int& tile) {
    wait_for_copies<C::kSlots - 2>();
    __syncthreads();
    const std::uint32_t current = slots_ + slot_ * C::kTileBytes;
    const int previous = slot_ == 0 ? C::kSlots - 1 : slot_ - 1;
    fill(slots_ + previous * C::kTileBytes, refilled, tile);
    slot_ = slot_ == C::kSlots - 1 ? 0 : slot_ + 1;
    return current;
  }

  /// Beyond the end nothing is copied, but a group is committed: the waits count groups.
  __device__ void fill(std::uint32_t slot, const HeadRows& rows, int& tile) {
    if (tile < end_tile_) {
      copy_rows<C::kKeys, C::kHeadDim, C::kPitch, C::kThreads, C::kGeneral>(
          slot, rows, tile * C::kKeys, k_len_, head_dim_, aligned_,
          [](int row, int chunk) { return chunk ^ key_swizzle(row); });
    }
    ++tile;
    commit_copies();
  }

  std::uint32_t slots_;
  HeadRows keys_, values_;
  int k_len_, head_dim_;
  bool aligned_;
  int key_tile_, value_tile_, end_tile_;
  int slot_ = 0;
};

}  // namespace modelopt::kernels::cuda::sm80
