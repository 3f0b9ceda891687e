// The attended mask and the counts of pairs, for the kernels that record them.
#pragma once

#include "kernels/cuda/sm90/softmax.h"
#include "kernels/cuda/sm90/traits.h"

namespace modelopt::kernels::cuda::sm90 {

/// One bit for each of a thread's scores of a tile: bit 2b + e of row h is that of score 4b + 2h + e.
struct TileBits {
  std::uint32_t row[2];
};

/// Scores that are not -inf.
template <typename Traits>
__device__ __forceinline__ TileBits finite_bits(const float (&s)[Traits::kScores]) {
  TileBits bits{};
#pragma unroll
  for (int b = 0; b < Traits::kScores / 4; ++b) {
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      if (s[4 * b + u] != kNegativeInfinity<float>) bits.row[u >> 1] |= 1u << (2 * b + (u & 1));
    }
  }
  return bits;
}

/// Pairs of a thread's two rows in the current query tile.
struct PairCounts {
  unsigned visible = 0;
  unsigned attended = 0;
};

/// Writes a tile's bits of one row of the quad: `bytes` is the row's mask, `limit` its size.
template <typename Traits>
__device__ __forceinline__ void write_mask_bytes(std::uint32_t bits, int quad_lane, int first_byte, std::uint8_t* bytes,
                                                 std::int64_t limit, bool wanted) {
  const auto store = [&](int byte, std::uint32_t value, bool own) {
    if (wanted && own && first_byte + byte < limit) bytes[first_byte + byte] = static_cast<std::uint8_t>(value);
  };
  if constexpr (!Traits::kPermutedKeys) {  // two keys of every eight
#pragma unroll
    for (int b = 0; b < Traits::kKeys / 8; ++b) {
      std::uint32_t value = (bits >> (2 * b) & 3u) << (2 * quad_lane);
      value |= __shfl_xor_sync(kFullWarp, value, 1);
      value |= __shfl_xor_sync(kFullWarp, value, 2);
      store(b, value, quad_lane == 0);
    }
  } else if constexpr (Traits::kBlock == 16) {  // four of every 16
#pragma unroll
    for (int b = 0; b < Traits::kKeys / 16; ++b) {
      std::uint32_t value = (bits >> (4 * b) & 15u) << (4 * (quad_lane & 1));
      value |= __shfl_xor_sync(kFullWarp, value, 1);
      store(2 * b + quad_lane / 2, value, (quad_lane & 1) == 0);
    }
  } else {  // eight of every 32
#pragma unroll
    for (int b = 0; b < Traits::kKeys / 32; ++b) store(4 * b + quad_lane, bits >> (8 * b) & 255u, true);
  }
}

/// Marks the visible blocks of one row: of its scores, 2 (natural order), 4 or 8 neighbouring keys lie in one eighth.
template <typename Traits>
__device__ __forceinline__ void mark_blocks(const KernelArguments& args, int sequence, int head, int offset,
                                            int position, int first_key, int quad_lane, std::uint32_t visible) {
  constexpr int kRun = Traits::kPermutedKeys ? Traits::kBlock / 4 : 2;
#pragma unroll
  for (int i = 0; i < Traits::kKeys / 4 / kRun; ++i) {
    if ((visible >> (kRun * i) & ((1u << kRun) - 1)) == 0) continue;
    const int key = first_key + 4 * kRun * i + kRun * quad_lane;
    mark_visible_block(args.visible_blocks, args.params, sequence, head, offset, position, key / 8 * 8);
  }
}

/// Records one tile of a block of rows. `position` is that of the thread's first row; its other one is 8 behind.
template <typename Traits>
__device__ __forceinline__ void record_tile(const KernelArguments& args, const SequenceRows& sequence, int index,
                                            int head, int position, int tile, int quad_lane, const TileBits& visible,
                                            const TileBits& attended, PairCounts& counts) {
  const AttentionParams& p = args.params;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int at = position + 8 * h;
    const bool wanted = at >= sequence.first && at < sequence.k_len;
    if (wanted) {
      counts.visible += __popc(visible.row[h]);
      counts.attended += __popc(attended.row[h]);
    }
    if (wanted && p.stats != nullptr) {
      const int offset = p.q_start[index] - sequence.q_base;
      mark_blocks<Traits>(args, index, head, offset, at, tile * Traits::kKeys, quad_lane, visible.row[h]);
    }
    if (p.mask == nullptr) continue;
    const std::int64_t row = static_cast<std::int64_t>(sequence.q_base) + at;
    std::uint8_t* bytes = p.mask + (wanted ? (row * p.heads + head) * p.mask_bytes : 0);
    write_mask_bytes<Traits>(attended.row[h], quad_lane, tile * (Traits::kKeys / 8), bytes, p.mask_bytes, wanted);
  }
}

/// Adds what a warp counted to the statistics of its sequence and head.
__device__ __forceinline__ void add_counts(const AttentionParams& p, int sequence, int head, const PairCounts& counts) {
  if (p.stats == nullptr) return;
  const unsigned visible = __reduce_add_sync(kFullWarp, counts.visible);
  const unsigned attended = __reduce_add_sync(kFullWarp, counts.attended);
  if (threadIdx.x % 32 != 0) return;
  auto* stats = reinterpret_cast<unsigned long long*>(p.stats) + (std::int64_t{sequence} * p.heads + head) * 4;
  atomicAdd(stats + 2, static_cast<unsigned long long>(visible));
  atomicAdd(stats + 3, static_cast<unsigned long long>(attended));
}

}  // namespace modelopt::kernels::cuda::sm90
