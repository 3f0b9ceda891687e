// Which scores of a backward tile are attended, as bits in the layout of the accumulators of mma.m16n8k16 and wgmma:
// thread c = lane % 4 of a quad holds columns 2c and 2c + 1 of every eight, of rows r = lane / 4 and r + 8 of its
// warp's
// 16. Host and device where no other lane takes part; a test compares them with the rules for single keys.
//
// Rows are queries and columns keys (gradients of queries), or the other way round (gradients of keys). The mask has
// one row of bits per query. For the columns' side it is transposed in registers: 32 x 32 bits at a time, five
// exchanges within the warp.
#pragma once

#include <cstdint>

#include "kernels/cuda/backward/backward_params.h"

namespace modelopt::kernels::cuda {

/// Bits of a tile of 32 * kWords columns: that of column 8n + 2c + e in row r + 8h is bit 8 (n % 4) + e of
/// row[h][n / 4].
template <int kWords>
struct AttendedBits {
  std::uint32_t row[2][kWords];

  [[nodiscard]] MODELOPT_HOST_DEVICE bool attends(int h, int n, int e) const {
    return (row[h][n / 4] >> (8 * (n % 4) + e) & 1u) != 0;
  }
};

/// Bits [begin, end) of a word, clamped to it.
MODELOPT_HOST_DEVICE constexpr std::uint32_t bits_in_range(int begin, int end) {
  const std::uint32_t from = begin <= 0 ? 0xFFFFFFFFu : begin >= 32 ? 0u : 0xFFFFFFFFu << begin;
  const std::uint32_t below = end >= 32 ? 0xFFFFFFFFu : end <= 0 ? 0u : (1u << end) - 1u;
  return from & below;
}

/// By position: `range` has, for each of the thread's two rows, the columns that it attends to.
template <int kWords>
MODELOPT_HOST_DEVICE constexpr AttendedBits<kWords> bits_by_position(const ColumnRange (&range)[2], int first_column,
                                                                     int quad_lane) {
  AttendedBits<kWords> bits{};
  for (int h = 0; h < 2; ++h) {
    for (int w = 0; w < kWords; ++w) {
      const int from = first_column + 32 * w;
      bits.row[h][w] = bits_in_range(range[h].begin - from, range[h].end - from) >> (2 * quad_lane);
    }
  }
  return bits;
}

#if defined(__CUDACC__)

/// Rows are queries: `mask_rows` are those of the thread's two rows, or null for a row that does not exist; `word` is
/// the first column divided by 32, `words` the number of words of a row.
template <int kWords>
__device__ inline AttendedBits<kWords> bits_of_queries(const std::uint32_t* const (&mask_rows)[2], int word, int words,
                                                       int quad_lane) {
  AttendedBits<kWords> bits;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const bool exists = mask_rows[h] != nullptr && word + w < words;
      bits.row[h][w] = (exists ? __ldg(mask_rows[h] + word + w) : 0u) >> (2 * quad_lane);
    }
  }
  return bits;
}

/// Lane l hands in row l of a 32 x 32 matrix of bits and gets its column l.
__device__ inline std::uint32_t transpose_bits(std::uint32_t word) {
  const unsigned lane = threadIdx.x % 32;
#pragma unroll
  for (unsigned step = 16, low = 0x0000FFFFu; step > 0; step /= 2, low ^= low << step) {
    const std::uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, word, step);
    const bool upper = (lane & step) != 0;
    const std::uint32_t kept = upper ? ~low : low;
    word = (word & kept) | ((upper ? other >> step : other << step) & ~kept);
  }
  return word;
}

/// Rows are keys: `pairs` is, in lane l, the mask's 16 bits of the warp's keys in query column l, and above them those
/// in column l + 32 (with one word: 0).
template <int kWords>
__device__ inline AttendedBits<kWords> bits_of_keys(std::uint32_t pairs) {
  static_assert(kWords == 1 || kWords == 2);
  const std::uint32_t keys = transpose_bits(pairs);  // lane k: key k % 16 in columns 32 (k / 16) and on
  const int lane = static_cast<int>(threadIdx.x) % 32;
  AttendedBits<kWords> bits;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      bits.row[h][w] = __shfl_sync(0xFFFFFFFFu, keys, lane / 4 + 8 * h + 16 * w) >> (2 * (lane % 4));
    }
  }
  return bits;
}

#endif  // __CUDACC__

}  // namespace modelopt::kernels::cuda
