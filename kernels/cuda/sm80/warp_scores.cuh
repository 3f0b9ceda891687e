// The scores of one warp's rows against a tile of keys, in the accumulators of mma.m16n8k16. The forward and the vote
// kernels share it: a pair's score has the same bits in both.
#pragma once

#include <cstdint>

#include "kernels/cuda/sm80/forward_config.h"
#include "kernels/cuda/sm80/key_order.h"
#include "kernels/cuda/sm80/key_range.h"
#include "kernels/cuda/sm80/mma_sync.cuh"

namespace modelopt::kernels::cuda::sm80 {

template <class C>
class WarpScores {
 protected:
  using Element = typename C::Element;

  /// `tile_row` is the position of the tile's first row.
  __device__ WarpScores(std::uint32_t query_tile, int tile_row) : first_row_(tile_row + warp() * C::kWarpRows) {
    // Operand A, 16x16: matrices (rows 0-7, 8-15) x (chunks 0, 1)
    const int row = warp() * C::kWarpRows + lane() % 16;
    query_address_ = query_tile + row * C::kPitch + 16 * ((lane() / 16) ^ query_swizzle(row));
    // Operand B of 8 keys x 16 elements: 8-column blocks (h, h + 1) x chunks (0, 1)
    key_offset_ = offset_in_tile(key_of_column(lane() / 16, lane() % 8), lane() / 8 % 2);
  }

  [[nodiscard]] static __device__ int warp() { return static_cast<int>(threadIdx.x) / 32; }
  [[nodiscard]] static __device__ int lane() { return static_cast<int>(threadIdx.x) % 32; }

  [[nodiscard]] static __device__ std::uint32_t offset_in_tile(int key, int chunk) {
    return key * C::kPitch + 16 * (chunk ^ key_swizzle(key));
  }

  /// Position of the thread's row.
  [[nodiscard]] __device__ int row_position(int b, int half) const {
    return first_row_ + 16 * b + 8 * half + lane() / 4;
  }

  /// The thread's first key of 32-key block kb of a tile.
  [[nodiscard]] static __device__ int key_of_thread(int first_key, int kb) {
    return first_key + kb * kKeyBlock + kKeysPerThread * (lane() % 4);
  }

  /// The address `chunk` chunks further on (an even number where chunks come in pairs): the swizzle is an exclusive or
  /// of the low three bits, and rows begin at multiples of 128 bytes.
  [[nodiscard]] static __device__ std::uint32_t advance_chunks(std::uint32_t address, int chunk) {
    return (address ^ (16 * (chunk & 7))) + 16 * (chunk & ~7);
  }

  /// S = Q K^T, accumulated over head_dim in ascending steps of 16.
  __device__ void compute_scores(std::uint32_t key_tile) {
#pragma unroll
    for (int b = 0; b < C::kRowBlocks; ++b) {
#pragma unroll
      for (int n = 0; n < C::kScoreColumns; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) scores_[b][n][e] = 0.0f;
      }
    }
    const std::uint32_t keys = key_tile + key_offset_;
#pragma unroll
    for (int step = 0; step < C::kHeadDim / 16; ++step) {
      std::uint32_t query[C::kRowBlocks][4];
#pragma unroll
      for (int b = 0; b < C::kRowBlocks; ++b) {
        load_matrices(query[b], advance_chunks(query_address_, 2 * step) + 16 * b * C::kPitch);
      }
#pragma unroll
      for (int n = 0; n < C::kScoreColumns; n += 2) {
        std::uint32_t key[4];
        // 8-column blocks h and h + 1 of a 32-key block; two h further on are four keys further on
        load_matrices(key, advance_chunks(keys, 2 * step) + (n / 4 * kKeyBlock + n % 4 * 2) * C::kPitch);
#pragma unroll
        for (int b = 0; b < C::kRowBlocks; ++b) {
          mma_16x8x16<Element>(scores_[b][n], query[b], key[0], key[1]);
          mma_16x8x16<Element>(scores_[b][n + 1], query[b], key[2], key[3]);
        }
      }
    }
  }

  /// The thread's eight scores of a row, in the order of their keys.
  __device__ void get_scores(float (&x)[kKeysPerThread], int b, int half, int kb) const {
#pragma unroll
    for (int i = 0; i < kKeysPerThread; ++i) x[i] = scores_[b][4 * kb + i / 2][2 * half + i % 2];
  }

  /// Calls f(b, half, kb) for every run of eight keys of the thread.
  template <typename Function>
  static __device__ void for_each_run(Function f) {
#pragma unroll
    for (int b = 0; b < C::kRowBlocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int kb = 0; kb < C::kKeyBlocks; ++kb) f(b, half, kb);
      }
    }
  }

  int first_row_;  ///< position of the warp's first row
  std::uint32_t query_address_, key_offset_;
  float scores_[C::kRowBlocks][C::kScoreColumns][4];
};

}  // namespace modelopt::kernels::cuda::sm80
