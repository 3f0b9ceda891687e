// Tiles of fp32 rows in shared memory, and the scores of a warp's rows. One file for all fp32 kernels: a pair's score
// has one order of accumulation.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_params.h"
#include "kernels/cuda/sm80/block_problem.cuh"
#include "kernels/cuda/sm80/launch_forward.h"

namespace modelopt::kernels::cuda::sm80 {

inline constexpr int kFp32Warps = 4;
inline constexpr int kFp32Threads = 32 * kFp32Warps;
inline constexpr int kFp32WarpRows = kFp32QueryRows / kFp32Warps;
inline constexpr int kFp32TileKeys = 32;

/// The rows of one thread block, counted from the sequence's first one, and the tiles of keys that they see. Blocks
/// with the most keys (of a causal problem) come first.
struct Fp32Rows {
  BlockProblem block;
  int row_begin, row_end;
  int first_tile_key, end_key;

  __device__ explicit Fp32Rows(const ForwardParams& params) {
    const AttentionParams& p = params.attention;
    const auto tiles = static_cast<unsigned>(params.query_tiles);
    const int head_of_batch = static_cast<int>(blockIdx.x / tiles);
    block.batch = head_of_batch / p.heads;
    block.head = head_of_batch % p.heads;
    block.sequence = sequence_range(p, block.batch);
    const SequenceRange& s = block.sequence;
    block.offset = s.k_len - s.q_len;
    row_begin = static_cast<int>(tiles - 1 - blockIdx.x % tiles) * kFp32QueryRows;
    row_end = min(row_begin + kFp32QueryRows, s.q_len);
    end_key = p.is_causal ? min(row_end + block.offset, s.k_len) : s.k_len;
    const int first_key = p.sliding_window > 0 ? max(row_begin + block.offset - p.sliding_window + 1, 0) : 0;
    first_tile_key = first_key / kFp32TileKeys * kFp32TileKeys;
  }

  [[nodiscard]] __device__ bool empty() const { return row_begin >= row_end; }
  [[nodiscard]] __device__ int first_of_warp() const {
    return row_begin + static_cast<int>(threadIdx.x) / 32 * kFp32WarpRows;
  }
};

/// Floats of a row of the Q and V tiles: head_dim, padded with zeros to whole float4.
constexpr int row_floats(int head_dim) { return (head_dim + 3) / 4 * 4; }

/// Floats of a row of the K tile, in which the lanes of a warp read the same float4 of 32 rows.
constexpr int key_row_floats(int head_dim) { return (row_floats(head_dim) / 4 | 1) * 4; }

/// Copies rows [row_begin, row_begin + rows) of a head; rows from row_end on and elements from head_dim on become 0.
__device__ inline void copy_rows(float* tile, int pitch, int rows, const float* head, std::int64_t row_stride,
                                 int row_begin, int row_end, int head_dim) {
  const int width = row_floats(head_dim);
#pragma unroll 1  // registers are short where outputs are held
  for (int row = static_cast<int>(threadIdx.x) / 32; row < rows; row += kFp32Warps) {
    const bool inside = row_begin + row < row_end;
    const float* source = head + (row_begin + row) * row_stride;
    for (int d = static_cast<int>(threadIdx.x) % 32; d < width; d += 32) {
      tile[row * pitch + d] = inside && d < head_dim ? source[d] : 0.0f;
    }
  }
}

__device__ inline const float* head_of(const void* data, Strides strides, int first_row, int head) {
  return static_cast<const float*>(data) + first_row * strides.row + head * strides.head;
}

/// Scores of the warp's rows and the lane's key. Each block of kChainBlock elements is summed in four chains of fused
/// multiply-adds, one for each element modulo 4, and the blocks are added up in their order: one chain over a head_dim
/// of 256 errs by up to five times as much.
__device__ inline void score_rows(float (&x)[kFp32WarpRows], const float* queries, const float* key, int width) {
  constexpr int kChainBlock = 64;
#pragma unroll
  for (float& score : x) score = 0.0f;
#pragma unroll 1
  for (int block = 0; block < width; block += kChainBlock) {
    float4 chains[kFp32WarpRows] = {};
    const int end = min(block + kChainBlock, width);
#pragma unroll 1
    for (int d = block; d < end; d += 4) {
      const float4 k = *reinterpret_cast<const float4*>(key + d);
#pragma unroll
      for (int r = 0; r < kFp32WarpRows; ++r) {
        const float4 q = *reinterpret_cast<const float4*>(queries + r * width + d);
        chains[r].x = __fmaf_rn(q.x, k.x, chains[r].x);
        chains[r].y = __fmaf_rn(q.y, k.y, chains[r].y);
        chains[r].z = __fmaf_rn(q.z, k.z, chains[r].z);
        chains[r].w = __fmaf_rn(q.w, k.w, chains[r].w);
      }
    }
#pragma unroll
    for (int r = 0; r < kFp32WarpRows; ++r) {
      x[r] += __fadd_rn(__fadd_rn(chains[r].x, chains[r].y), __fadd_rn(chains[r].z, chains[r].w));
    }
  }
}

}  // namespace modelopt::kernels::cuda::sm80
