// Where keys lie in shared memory and in the registers of a warp. Plain integer functions, host and device, so that a
// host test can walk through every fragment.
//
// Order of keys. In the accumulator of mma.m16n8k16 a thread with quad lane c = lane % 4 holds columns 2c and 2c+1 of
// every 8-column block. In each block of 32 keys, column 2c+e of the h-th 8-column block is key 8c+2h+e: a thread holds
// the eight consecutive keys 8c … 8c+7, that is whole groups of 4 and of 8. Selection needs no shuffle, and a byte of
// the attended mask belongs to one thread. The tiles lie in shared memory in natural order; the permutation is in the
// row addresses that the lanes hand to ldmatrix, for K and for V alike.
//
// Order of chunks. A row is a number of 16-byte chunks (8 elements); chunk `c` of key row r lies at chunk
// c ^ key_swizzle(r). ldmatrix is free of bank conflicts if the eight rows of an 8x8 matrix have eight different
// swizzles. Such rows differ in key bits {0, 3, 4} (K, and V for the dense product) or {0, 1, 3} (V for the sparse
// one).
#pragma once

#include "kernels/selection.h"  // MODELOPT_HOST_DEVICE

namespace modelopt::kernels::cuda::sm80 {

inline constexpr int kKeyBlock = 32;  ///< keys after which the order repeats

/// Bits (b0, b3, b4 ^ b1) of the key row.
MODELOPT_HOST_DEVICE constexpr int key_swizzle(int row) {
  return (row & 1) | ((row >> 2) & 2) | (((row >> 2) ^ (row << 1)) & 4);
}

/// Query rows lie in natural order: ldmatrix takes eight consecutive ones.
MODELOPT_HOST_DEVICE constexpr int query_swizzle(int row) { return row & 7; }

/// The key in its block of 32 at column `column` (0..7) of 8-column block h (0..3) of the scores.
MODELOPT_HOST_DEVICE constexpr int key_of_column(int h, int column) { return 8 * (column / 2) + 2 * h + column % 2; }

/// The key in its block of 32 at row k (0..31) of operand B of mma.sp.m16n8k32. Group k / 4 of operand A belongs to
/// quad lane c = k / 4 % 4, which holds the groups 8c … 8c+3 (k < 16) and 8c+4 … 8c+7.
MODELOPT_HOST_DEVICE constexpr int key_of_sparse_k(int k) { return 8 * (k / 4 % 4) + 4 * (k / 16) + k % 4; }

}  // namespace modelopt::kernels::cuda::sm80
