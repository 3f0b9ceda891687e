// Rows of 16-bit elements from global to shared memory, and the ring through which the tiles of K and V stream.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_params.h"
#include "kernels/cuda/sm80/key_order.h"
#include "kernels/cuda/sm80/mma_sync.cuh"

namespace modelopt::kernels::cuda::sm80 {

/// Copies tiles of consecutive rows of a head, one after the other, to shared memory, kPitch bytes a row. Rows outside
/// [0, row_end) and elements from head_dim on become 0; they are not read.
///
/// Every thread copies the same 16-byte chunk of every kStep-th row. It walks down the rows and is at the next tile
/// after the last one; pass_tiles() goes further. If `whole_chunks` (head_dim, addresses and strides are multiples of
/// 16 bytes) it copies asynchronously, otherwise, which kAnyAlignment allows, element by element. `kSwizzle` is linear:
/// the exclusive or of two rows without common bits has the exclusive or of their swizzles. Rows may be negative with
/// kNegativeRows only.
template <int kRows, int kHeadDim, int kThreads, bool kAnyAlignment, bool kNegativeRows, int (*kSwizzle)(int)>
class RowCopier {
 public:
  /// `data` is row 0 of the head, `first_row` the first row of the first tile.
  __device__ RowCopier(const void* data, std::int64_t row_stride, int first_row, int row_end, int head_dim,
                       bool whole_chunks)
      : step_(2 * kStep * row_stride),
        elements_(min(max(head_dim - 8 * chunk(), 0), 8)),
        offset_(first() * kPitch + 16 * (chunk() ^ kSwizzle(first()))),
        row_end_(elements_ > 0 ? row_end - first() : -first()),
        whole_chunks_(whole_chunks) {
    source_ = static_cast<const char*>(data) + 2 * ((first_row + first()) * row_stride) + 16 * chunk();
  }

  /// Leaves out `count` tiles.
  __device__ void pass_tiles(int count) { source_ += count * (kRows / kStep) * step_; }

  /// Copies the next tile, whose first row is `first_row`.
  __device__ void copy_tile(std::uint32_t tile, int first_row) {
#pragma unroll
    for (int i = 0; i < kRows / kStep; ++i) {
      const std::uint32_t target = ((tile + offset_) ^ (16 * kSwizzle(i * kStep))) + i * kStep * kPitch;
      const int row = first_row + i * kStep;
      const bool inside = row < row_end_ && (!kNegativeRows || row >= -first());
      if (!kAnyAlignment || whole_chunks_) {
        copy_async_16(target, source_, inside);
      } else {
        copy_elements(target, inside ? elements_ : 0);
      }
      source_ += step_;
    }
  }

 private:
  static constexpr int kPitch = 2 * kHeadDim;
  static constexpr int kChunks = kHeadDim / 8;
  static constexpr int kStep = kThreads / kChunks;  ///< a power of two
  static_assert(kThreads % kChunks == 0 && kRows % kStep == 0);

  [[nodiscard]] static __device__ int chunk() { return static_cast<int>(threadIdx.x) % kChunks; }
  [[nodiscard]] static __device__ int first() { return static_cast<int>(threadIdx.x) / kChunks; }

  __device__ void copy_elements(std::uint32_t target, int count) const {
    std::uint32_t words[4] = {};
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      if (e < count) {
        words[e / 2] |= static_cast<std::uint32_t>(reinterpret_cast<const std::uint16_t*>(source_)[e])
                        << (16 * (e % 2));
      }
    }
    store_shared_16(target, words);
  }

  const char* source_;    ///< of this thread's chunk of the next row that it copies
  std::int64_t step_;     ///< bytes from one row that it copies to the next
  int elements_;          ///< of the chunk that lie in the row
  std::uint32_t offset_;  ///< of the first chunk in a tile
  int row_end_;           ///< less first(); nothing is inside if the chunk is beyond head_dim
  bool whole_chunks_;
};

/// The ring of shared-memory slots through which tiles stream. Tiles are used in the order of their copies.
///
/// next() is called by the whole block for each tile. It waits for the tile, makes it visible to all threads, and
/// starts the copy of the tile that is C::kSlots - 1 further on, into the slot of the tile before: the barrier that
/// publishes this tile also says that all warps are done with that one. So one barrier per tile.
template <class C>
class TileRing {
 public:
  using Copier = RowCopier<C::kKeys, C::kHeadDim, C::kThreads, C::kGeneral, false, &key_swizzle>;

  __device__ explicit TileRing(std::uint32_t slots) : slots_(slots) {}

  /// Starts the copy of a tile into a slot, before the first next(): C::kSlots - 1 of them. Copies begun before by the
  /// caller are part of the first one.
  __device__ void start(int slot, Copier& copier, int first_key, bool exists) {
    if (exists) copier.copy_tile(slots_ + slot * C::kTileBytes, first_key);
    commit_copies();
  }

  /// The address of the next tile; `refill` copies the one further on if there is one (`more`). A group is committed in
  /// any case: the waits count groups.
  __device__ std::uint32_t next(Copier& refilled, int refill_key, bool more) {
    wait_for_copies<C::kSlots - 2>();
    __syncthreads();
    const std::uint32_t current = slots_ + slot_;
    const int before = slot_ == 0 ? (C::kSlots - 1) * C::kTileBytes : slot_ - C::kTileBytes;
    if (more) refilled.copy_tile(slots_ + before, refill_key);
    commit_copies();
    slot_ = slot_ == (C::kSlots - 1) * C::kTileBytes ? 0 : slot_ + C::kTileBytes;
    return current;
  }

 private:
  std::uint32_t slots_;
  int slot_ = 0;  ///< offset of the tile that is next to be used
};

/// The tiles K0 V0 K1 V1 … of one head. next_keys() and next_values() are called in turns by the whole block.
template <class C>
class KeyValueStream {
 public:
  using Copier = typename TileRing<C>::Copier;

  __device__ KeyValueStream(std::uint32_t slots, const Copier& keys, const Copier& values)
      : ring_(slots), keys_(keys), values_(values) {}

  /// Starts the first kSlots - 1 copies.
  __device__ void start(int first_key) {
    ring_.start(0, keys_, first_key, true);
    if constexpr (C::kSlots == 3) ring_.start(1, values_, first_key, true);
  }

  /// The address of the tile of K that begins at `key`. The tile after it begins at `next_key`; there is none if
  /// `last`.
  __device__ std::uint32_t next_keys(int key, int next_key, bool last) {
    if constexpr (C::kSlots == 3) return next(keys_, key, next_key, last);
    return ring_.next(values_, key, true);
  }

  __device__ std::uint32_t next_values(int key, int next_key, bool last) {
    if constexpr (C::kSlots == 2) return next(keys_, key, next_key, last, &values_);
    return next(values_, key, next_key, last);
  }

 private:
  static_assert(C::kSlots == 2 || C::kSlots == 3, "the tile to copy is of the other or of the same kind");

  /// `also`: another copier that goes on to the next tile.
  __device__ std::uint32_t next(Copier& refilled, int key, int next_key, bool last, Copier* also = nullptr) {
    if constexpr (C::kGeneral) {
      const int passed = (next_key - key) / C::kKeys - 1;
      if (passed > 0) {
        refilled.pass_tiles(passed);
        if (also != nullptr) also->pass_tiles(passed);
      }
    }
    return ring_.next(refilled, next_key, !last);
  }

  TileRing<C> ring_;
  Copier keys_, values_;
};

}  // namespace modelopt::kernels::cuda::sm80
