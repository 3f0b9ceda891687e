// From a tile of scores to the operand P of P·V: selection, exponentials, row sums, sparse metadata. One consumer
// warpgroup.
//
// Fragment (PTX ISA, wgmma accumulator): thread c = lane % 4 of a quad holds, of each 8-column block b, columns 2c and
// 2c + 1 of row r = lane / 4 in s[4b], s[4b + 1] and of row r + 8 in s[4b + 2], s[4b + 3]. With permuted keys these
// are, over two (four) neighbouring blocks, logical keys 4c .. 4c+3 (8c .. 8c+7) of the 16 (32): a whole group, in
// order.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/sm90/hopper.h"
#include "kernels/cuda/sm90/traits.h"
#include "kernels/selection.h"

namespace modelopt::kernels::cuda::sm90 {

constexpr unsigned kFullWarp = 0xffffffffu;

__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, 1));
  return fmaxf(x, __shfl_xor_sync(kFullWarp, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(kFullWarp, x, 1);
  return x + __shfl_xor_sync(kFullWarp, x, 2);
}

__device__ __forceinline__ std::uint32_t permute_bytes(std::uint32_t a, std::uint32_t b, std::uint32_t selector) {
  return __byte_perm(a, b, selector);
}

/// Row state of one thread: two rows (h = 0, 1) of its block. sum is this thread's part of the row sum. A score x has
/// weight exp2(x * scale_log2 + shift) with the biased reference and exp2((x + shift) * scale_log2) with true maxima:
/// there, scores of any size keep their weights, because the difference is taken before the scale.
struct RowState {
  float shift[2] = {0.0f, 0.0f};
  float sum[2] = {0.0f, 0.0f};
};

// --- metadata ------------------------------------------------------------------------------------------------------
// A group's nibble is idx0 | idx1 << 2 of its two kept keys (PTX ISA, sparse wgmma). The nibbles of four 16-key blocks
// are collected as the low bits of a float between 2^23 and 2^24, where adding whole numbers is exact: predicated
// additions do not need the selection's results in integer registers.
constexpr float kNibbles = 8388608.0f;                      // 2^23
constexpr float kNibblesPair02 = kNibbles + float{0x8888};  // 8 everywhere: keys 0 and 2

/// Transposes nibbles over the quad: `word` holds, in its low half for row r and in its high half for row r + 8, the
/// nibble of this thread's group for four 16-key blocks. Lane c gets the four groups of block c, as the instruction
/// wants them: lanes 0 and 1 serve the first 32 keys, lanes 2 and 3 the next.
__device__ __forceinline__ std::uint32_t transpose_nibbles(std::uint32_t word, int c) {
  const std::uint32_t across2 = __shfl_xor_sync(kFullWarp, word, 2);
  word = permute_bytes(word, across2, (c & 2) != 0 ? 0x3715u : 0x6240u);
  std::uint32_t across1 = __shfl_xor_sync(kFullWarp, word, 1);
  across1 = __funnelshift_l(across1, across1, (c & 1) != 0 ? 28u : 4u);
  const std::uint32_t own = (c & 1) != 0 ? 0xF0F0F0F0u : 0x0F0F0F0Fu;
  return (word & own) | (across1 & ~own);
}

/// The two largest of a group, in key order (selection.h: equal scores go to the lower index); t0, t1 are the arguments
/// of their exponentials. NaN anywhere in the group makes t0 or t1 NaN: max and min pass it on and the comparisons are
/// false. `choice` gets 4 - 8 where keys 0, 1 win and 14 - 8 where 2, 3 do, `order` 1 where x1 > x0 and 4 where x3 >
/// x2, all times `unit`; metadata_2of4 puts them together.
__device__ __forceinline__ void select_2of4(float x0, float x1, float x2, float x3, float scale, float shift,
                                            float unit, float& t0, float& t1, float& choice, float& order) {
  asm("{\n"
      ".reg .pred first, second, up0, up1;\n"
      ".reg .f32 high0, high1, low0, low1;\n"
      "setp.gt.f32 up0, %5, %4;\n"
      "@up0 add.f32 %3, %3, %10;\n"
      "setp.gt.f32 up1, %7, %6;\n"
      "@up1 add.f32 %3, %3, %11;\n"
      "max.NaN.f32 high0, %4, %5;\n"
      "min.NaN.f32 low0, %4, %5;\n"
      "max.NaN.f32 high1, %6, %7;\n"
      "min.NaN.f32 low1, %6, %7;\n"
      "setp.ge.f32 first, low0, high1;\n"
      "setp.gt.f32 second, low1, high0;\n"
      "fma.rn.f32 %0, high0, %8, %9;\n"
      "fma.rn.f32 %1, high1, %8, %9;\n"
      "@first fma.rn.f32 %0, %4, %8, %9;\n"
      "@first fma.rn.f32 %1, %5, %8, %9;\n"
      "@first add.f32 %2, %2, %12;\n"
      "@second fma.rn.f32 %0, %6, %8, %9;\n"
      "@second fma.rn.f32 %1, %7, %8, %9;\n"
      "@second add.f32 %2, %2, %13;\n"
      "}\n"
      : "=&f"(t0), "=&f"(t1), "+f"(choice), "+f"(order)
      : "f"(x0), "f"(x1), "f"(x2), "f"(x3), "f"(scale), "f"(shift), "f"(unit), "f"(4.0f * unit), "f"(-4.0f * unit),
        "f"(6.0f * unit));
}

/// Nibbles from what select_2of4 summed up: 4 | 14 as they are, 8 + order elsewhere.
__device__ __forceinline__ std::uint32_t metadata_2of4(std::uint32_t choice, std::uint32_t order) {
  const std::uint32_t same_pair = (choice & 0x44444444u) | ((choice >> 2) & 0x11111111u);
  return choice | (order & ~same_pair);
}

/// The two largest of a group, t0 = larger of keys 0, 1 or smaller of keys 2, 3, and t1 the other way round: where both
/// come from one pair the smaller one just takes the other's place. `choice` gets 1 where keys 0, 1 win and 2 where 2,
/// 3 do; `order` as above. `one` is 1.0f: a predicated product reads one register less than a move through a select.
__device__ __forceinline__ void select_2of4_unordered(float x0, float x1, float x2, float x3, float scale, float shift,
                                                      float unit, float one, float& t0, float& t1, float& choice,
                                                      float& order) {
  asm("{\n"
      ".reg .pred first, second, up0, up1;\n"
      ".reg .f32 high0, high1, low0, low1;\n"
      "setp.gt.f32 up0, %5, %4;\n"
      "@up0 add.f32 %3, %3, %10;\n"
      "setp.gt.f32 up1, %7, %6;\n"
      "@up1 add.f32 %3, %3, %11;\n"
      "max.NaN.f32 high0, %4, %5;\n"
      "min.NaN.f32 low0, %4, %5;\n"
      "max.NaN.f32 high1, %6, %7;\n"
      "min.NaN.f32 low1, %6, %7;\n"
      "setp.ge.f32 first, low0, high1;\n"
      "setp.gt.f32 second, low1, high0;\n"
      "@first mul.f32 high1, low0, %13;\n"
      "@first add.f32 %2, %2, %10;\n"
      "@second mul.f32 high0, low1, %13;\n"
      "@second add.f32 %2, %2, %12;\n"
      "fma.rn.f32 %0, high0, %8, %9;\n"
      "fma.rn.f32 %1, high1, %8, %9;\n"
      "}\n"
      : "=&f"(t0), "=&f"(t1), "+f"(choice), "+f"(order)
      : "f"(x0), "f"(x1), "f"(x2), "f"(x3), "f"(scale), "f"(shift), "f"(unit), "f"(4.0f * unit), "f"(2.0f * unit),
        "f"(one));
}

/// Nibbles from what select_2of4_unordered summed up. Slot 0 holds key up0, or 3 - up1 of keys 2, 3 where these win;
/// slot 1 holds key 2 + up1, or 1 - up0 where keys 0, 1 win.
__device__ __forceinline__ std::uint32_t metadata_2of4_unordered(std::uint32_t choice, std::uint32_t order) {
  const std::uint32_t first = choice & 0x11111111u, second = choice & 0x22222222u;
  const std::uint32_t first2 = first << 2, second0 = second >> 1;
  const std::uint32_t low1 = (~(order << 2) & first2) | (order & ~first2);    // bit 2: low bit of slot 1's index
  const std::uint32_t low0 = (~(order >> 2) & second0) | (order & ~second0);  // bit 0: low bit of slot 0's
  return (low1 & 0x44444444u) | (low0 & 0x11111111u) | second | (~first & 0x11111111u) << 3;
}

/// The largest of a group: one of keys 0, 1 as the first of the pair or one of keys 2, 3 as the second; the other is
/// zero. `order` as above makes the metadata alone, 8 + order.
__device__ __forceinline__ void select_1of4(float x0, float x1, float x2, float x3, float scale, float shift,
                                            float unit, float& t, bool& in_second, float& order) {
  const float high0 = max_nan(x0, x1), high1 = max_nan(x2, x3);
  in_second = high1 > high0;
  if (x1 > x0) order += unit;
  if (x3 > x2) order += 4.0f * unit;
  t = fmaf(max_nan(high0, high1), scale, shift);
}

// --- reference exponents ---------------------------------------------------------------------------------------------

/// Largest score of each of the two rows in the tile; NaN is ignored.
template <int kScores>
__device__ __forceinline__ void tile_maxima(const float (&s)[kScores], float (&maxima)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float m = kNegativeInfinity<float>;
#pragma unroll
    for (int i = 0; i < kScores / 4; ++i) m = fmaxf(m, fmaxf(s[4 * i + 2 * h], s[4 * i + 2 * h + 1]));
    maxima[h] = quad_max(m);
  }
}

/// `value`; NaN if x is infinite or NaN. A select in its place costs the main loop its uniform registers.
__device__ __forceinline__ float nan_if_infinite(float x, float value) { return fmaf(x, 0.0f, value); }

/// Biased reference: rows without any weight so far take the largest score of this tile. Nothing happens to others, so
/// that a row's bits depend on the row alone. The sum of a row whose reference is 2^26 or more becomes NaN: rounded, it
/// may be so far from the score that no weight is left.
template <int kScores>
__device__ __forceinline__ void start_rows(const float (&s)[kScores], float scale_log2, RowState& rows) {
  if (!__any_sync(kFullWarp, rows.sum[0] == 0.0f || rows.sum[1] == 0.0f)) return;
  float maxima[2];
  tile_maxima(s, maxima);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (quad_sum(rows.sum[h]) == 0.0f && maxima[h] != kNegativeInfinity<float>) {
      rows.shift[h] = -maxima[h] * scale_log2 - static_cast<float>(kBias);
      rows.sum[h] = nan_if_infinite(rows.shift[h] * 0x1p102f, rows.sum[h]);
    }
  }
}

/// Multiplies what has been summed up by 2^-d.
template <int kOutputs>
__device__ __forceinline__ void lower_row(float (&o)[kOutputs], RowState& rows, int h, float factor) {
  rows.sum[h] *= factor;
#pragma unroll
  for (int i = 0; i < kOutputs / 4; ++i) {
    o[4 * i + 2 * h] *= factor;
    o[4 * i + 2 * h + 1] *= factor;
  }
}

/// Biased reference: moves it where a row's sum has grown past 2^(kMargin - kBias); rare. Factors are powers of two. A
/// sum from 2^100 on becomes NaN: products may have overflowed by then. So does one whose reference, rounded, has moved
/// by something else than d, from 2^-10 on: what has been summed up and what comes next would not fit together.
template <int kOutputs>
__device__ __forceinline__ void guard_rows(float (&o)[kOutputs], RowState& rows) {
  constexpr float kLimit = 1.0f / static_cast<float>(1ull << (kBias - kMargin));
  if (!__any_sync(kFullWarp, fmaxf(rows.sum[0], rows.sum[1]) > kLimit)) return;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const bool grown = quad_max(rows.sum[h]) > kLimit;
    const float total = quad_sum(rows.sum[h]);
    const int d = grown ? static_cast<int>(__float_as_uint(total) >> 23) - 127 + kBias : 0;
    const float half = __uint_as_float(static_cast<unsigned>(127 - (d >> 1)) << 23);
    const float rest = __uint_as_float(static_cast<unsigned>(127 - d + (d >> 1)) << 23);
    const float moved = rows.shift[h] - static_cast<float>(d);
    const float error = (rows.shift[h] - moved) - static_cast<float>(d);
    rows.shift[h] = moved;
    lower_row(o, rows, h, half);
    lower_row(o, rows, h, rest);
    rows.sum[h] = nan_if_infinite(total * 0x1p28f, rows.sum[h]);
    rows.sum[h] = nan_if_infinite(error * 0x1p127f * 0x1p11f, rows.sum[h]);
  }
}

/// True maxima: moves the reference where this tile has a score more than 2^kSlack above it.
template <int kScores, int kOutputs>
__device__ __forceinline__ void raise_rows(const float (&s)[kScores], float scale_log2, float (&o)[kOutputs],
                                           RowState& rows) {
  float maxima[2];
  tile_maxima(s, maxima);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const bool first = quad_sum(rows.sum[h]) == 0.0f;
    const float growth = (maxima[h] + rows.shift[h]) * scale_log2;
    const bool raise = maxima[h] != kNegativeInfinity<float> && (first || growth > static_cast<float>(kSlack));
    if (!__any_sync(kFullWarp, raise)) continue;
    const float factor = raise && !first ? exp2_approx(-growth) : 1.0f;
    if (raise) rows.shift[h] = -maxima[h];
    lower_row(o, rows, h, factor);
  }
}

// --- the tile --------------------------------------------------------------------------------------------------------

/// Operand A of P·V in registers.
template <typename Traits>
struct Weights {
  /// Sparse: [2 * block + h], block of 16 keys: the kept pair. Otherwise 4 registers per 16 keys.
  std::uint32_t kept[Traits::kSparse ? Traits::kKeys / 8 : Traits::kKeys / 4];
  std::uint32_t metadata[Traits::kSparse ? (Traits::kKeys + 63) / 64 : 1];
};

/// A tile without position masks, sparse: selection, exponentials, sums, metadata.
template <typename Traits>
__device__ __forceinline__ void sparse_softmax(const float (&s)[Traits::kScores], float scale_log2, float one, int c,
                                               RowState& rows, Weights<Traits>& weights) {
  constexpr int kBlocks = Traits::kKeys / 16;
  constexpr bool kUnordered = Traits::kPattern == Pattern::kSparse2of4Unordered;
  constexpr bool kBiased = Traits::kReference == Reference::kBiased;
  const float inner = kBiased ? scale_log2 : 1.0f;  // x * inner + shift, then times outer
  const float outer = kBiased ? 1.0f : scale_log2;
  constexpr float kChoice = Traits::kPattern == Pattern::kSparse2of4 ? kNibblesPair02 : kNibbles;
#pragma unroll
  for (int word = 0; word < (kBlocks + 3) / 4; ++word) {
    float choice[2] = {kChoice, kChoice};
    float order[2] = {kNibbles, kNibbles};
#pragma unroll
    for (int i = 0; i < 4 && 4 * word + i < kBlocks; ++i) {
      const float unit = static_cast<float>(1 << (4 * i));
      const int block = 4 * word + i;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int at = 8 * block + 2 * h;
        if constexpr (Traits::kPattern != Pattern::kSparse1of4) {
          float t0, t1;
          if constexpr (kUnordered) {
            select_2of4_unordered(s[at], s[at + 1], s[at + 4], s[at + 5], inner, rows.shift[h], unit, one, t0, t1,
                                  choice[h], order[h]);
          } else {
            select_2of4(s[at], s[at + 1], s[at + 4], s[at + 5], inner, rows.shift[h], unit, t0, t1, choice[h],
                        order[h]);
          }
          t0 = exp2_approx(t0 * outer);
          t1 = exp2_approx(t1 * outer);
          rows.sum[h] += t0 + t1;
          weights.kept[2 * block + h] = pack<typename Traits::Element>(t0, t1);
        } else {
          float t;
          bool in_second;
          select_1of4(s[at], s[at + 1], s[at + 4], s[at + 5], inner, rows.shift[h], unit, t, in_second, order[h]);
          t = exp2_approx(t * outer);
          rows.sum[h] += t;
          const std::uint32_t packed = pack<typename Traits::Element>(t, 0.0f);
          weights.kept[2 * block + h] = in_second ? packed << 16 : packed;
        }
      }
    }
    const std::uint32_t ups = permute_bytes(__float_as_uint(order[0]), __float_as_uint(order[1]), 0x5410);
    const std::uint32_t choices = permute_bytes(__float_as_uint(choice[0]), __float_as_uint(choice[1]), 0x5410);
    std::uint32_t nibbles;
    if constexpr (kUnordered) {
      nibbles = metadata_2of4_unordered(choices, ups);
    } else if constexpr (Traits::kPattern == Pattern::kSparse2of4) {
      nibbles = metadata_2of4(choices, ups);
    } else {
      nibbles = ups | 0x88888888u;
    }
    weights.metadata[word] = transpose_nibbles(nibbles, c);
  }
}

template <typename Traits>
__device__ __forceinline__ float exponent_of(float x, float scale_log2, float shift) {
  return Traits::kReference == Reference::kBiased ? fmaf(x, scale_log2, shift) : (x + shift) * scale_log2;
}

/// Exponentials of every score; s holds the weights afterwards. -inf gives 0.
template <typename Traits>
__device__ __forceinline__ void exponentials(float (&s)[Traits::kScores], float scale_log2, RowState& rows) {
#pragma unroll
  for (int i = 0; i < Traits::kScores / 2; ++i) {
    const int h = i & 1;
    const float p0 = exp2_approx(exponent_of<Traits>(s[2 * i], scale_log2, rows.shift[h]));
    const float p1 = exp2_approx(exponent_of<Traits>(s[2 * i + 1], scale_log2, rows.shift[h]));
    rows.sum[h] += p0 + p1;
    s[2 * i] = p0;
    s[2 * i + 1] = p1;
  }
}

template <typename Traits>
__device__ __forceinline__ void dense_softmax(float (&s)[Traits::kScores], float scale_log2, RowState& rows,
                                              Weights<Traits>& weights) {
  static_assert(!Traits::kSparse);
  exponentials<Traits>(s, scale_log2, rows);
#pragma unroll
  for (int i = 0; i < Traits::kScores / 2; ++i) {
    weights.kept[i] = pack<typename Traits::Element>(s[2 * i], s[2 * i + 1]);
  }
}

// --- masks -----------------------------------------------------------------------------------------------------------

/// Which logical keys of the tile a thread's scores belong to: score 4b + 2h + e is key key_of(b, e) + c * kPerThread.
template <typename Traits>
struct KeyLayout {
  static constexpr int kPerThread = Traits::kPermutedKeys ? Traits::kBlock / 4 : 2;
  static constexpr int key_of(int b, int e) {
    if (!Traits::kPermutedKeys) return 8 * b + e;
    return b / (Traits::kBlock / 8) * Traits::kBlock + b % (Traits::kBlock / 8) * 2 + e;
  }
};

/// Limits of one row, relative to this thread's first key of the tile.
struct RowLimits {
  int last;          ///< largest visible key
  int first;         ///< smallest visible key
  int window_first;  ///< keys of the dense window
  int window_last;
};

__device__ __forceinline__ RowLimits limits_of(const AttentionParams& p, const SequenceRows& rows, int position,
                                               int key_offset) {
  constexpr int kFar = 1 << 29;
  const int last = p.is_causal ? min(position, rows.k_len - 1) : rows.k_len - 1;
  const int first = p.sliding_window > 0 ? position - p.sliding_window + 1 : -kFar;
  return {last - key_offset, first - key_offset, position - p.dense_window_size + 1 - key_offset,
          position - key_offset};
}

/// Scores of keys that the rows cannot see become -inf. kFirst: not only those behind the last one.
template <typename Traits, bool kFirst>
__device__ __forceinline__ void hide_keys(float (&s)[Traits::kScores], const RowLimits (&limits)[2]) {
  using Keys = KeyLayout<Traits>;
#pragma unroll
  for (int b = 0; b < Traits::kScores / 4; ++b) {
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      const int key = Keys::key_of(b, u & 1);
      const RowLimits& row = limits[u >> 1];
      if (key > row.last || (kFirst && key < row.first)) s[4 * b + u] = kNegativeInfinity<float>;
    }
  }
}

/// Which scores of a group are kept, as predicates: an integer mask would have to be taken apart again.
template <int kM>
struct Kept {
  bool key[kM];
  bool has_nan;  ///< some score is NaN; `key` is then unspecified
};

/// keep_n_of_m<4>(x, all, 2) in a dozen instructions. Which of several -inf are kept differs, and does not matter:
/// their weight is 0.
__device__ __forceinline__ Kept<4> keep_2_of_4(const float (&x)[4]) {
  const float high0 = max_nan(x[0], x[1]), low0 = min_nan(x[0], x[1]);
  const float high1 = max_nan(x[2], x[3]), low1 = min_nan(x[2], x[3]);
  const bool up0 = x[1] > x[0], up1 = x[3] > x[2];
  const bool first = low0 >= high1, second = low1 > high0;
  return {
      {first || (!second && !up0), first || (!second && up0), second || (!first && !up1), second || (!first && up1)},
      isnan(max_nan(high0, high1))};
}

/// keep_n_of_m<4>(x, all, 3): drops the smallest, the last among equals. As above for -inf.
__device__ __forceinline__ Kept<4> keep_3_of_4(const float (&x)[4]) {
  const bool up0 = x[1] > x[0], up1 = x[3] > x[2];
  const float low0 = min_nan(x[0], x[1]), low1 = min_nan(x[2], x[3]);
  const bool second = low1 <= low0;
  return {{second || !up0, second || up0, !second || !up1, !second || up1}, isnan(min_nan(low0, low1))};
}

template <int kM>
__device__ __forceinline__ Kept<kM> keep_by_rule(const float (&x)[kM], int n) {
  const std::uint32_t mask = keep_n_of_m<kM>(x, (1u << kM) - 1, n);
  Kept<kM> kept;
  float largest = x[0];
#pragma unroll
  for (int i = 0; i < kM; ++i) {
    kept.key[i] = (mask >> i & 1u) != 0;
    largest = max_nan(largest, x[i]);
  }
  kept.has_nan = isnan(largest);
  return kept;
}

/// The fourth largest of eight; NaN if one is NaN. Both halves are sorted, and the larger of each pair that faces
/// another across them are the four largest of all (bitonic merge).
__device__ __forceinline__ float fourth_of_8(const float (&x)[8]) {
  float sorted[2][4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float* y = x + 4 * half;
    const float high0 = max_nan(y[0], y[1]), low0 = min_nan(y[0], y[1]);
    const float high1 = max_nan(y[2], y[3]), low1 = min_nan(y[2], y[3]);
    const float middle0 = min_nan(high0, high1), middle1 = max_nan(low0, low1);
    sorted[half][0] = max_nan(high0, high1);
    sorted[half][1] = max_nan(middle0, middle1);
    sorted[half][2] = min_nan(middle0, middle1);
    sorted[half][3] = min_nan(low0, low1);
  }
  return min_nan(min_nan(max_nan(sorted[0][0], sorted[1][3]), max_nan(sorted[0][1], sorted[1][2])),
                 min_nan(max_nan(sorted[0][2], sorted[1][1]), max_nan(sorted[0][3], sorted[1][0])));
}

/// keep_n_of_m in the fewest instructions known for each pattern, up to which of several -inf are kept. kN = 0: n is a
/// run-time value.
template <int kM, int kN>
__device__ __forceinline__ Kept<kM> keep(const float (&x)[kM], int n) {
  if constexpr (kM == 4 && kN == 2) {
    return keep_2_of_4(x);
  } else if constexpr (kM == 4 && kN == 3) {
    return keep_3_of_4(x);
  } else {
    return keep_by_rule<kM>(x, kN > 0 ? kN : n);
  }
}

/// The scores of group g of a thread in row h, in key order.
template <int kM, int kScores>
__device__ __forceinline__ void load_group(const float (&s)[kScores], int g, int h, float (&x)[kM]) {
#pragma unroll
  for (int i = 0; i < kM; ++i) x[i] = s[4 * (g * (kM / 2) + i / 2) + 2 * h + (i & 1)];
}

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

/// Counts a score that is not below `least`; one that is becomes -inf. By additions under a predicate: they run beside
/// the minima and maxima, for whose pipe a select would have to queue.
__device__ __forceinline__ void keep_from(float least, float& x, float& kept_count) {
  asm("{\n"
      ".reg .pred below;\n"
      "setp.lt.f32 below, %0, %2;\n"
      "@below add.f32 %0, %0, %3;\n"
      "@!below add.f32 %1, %1, %4;\n"
      "}\n"
      : "+f"(x), "+f"(kept_count)
      : "f"(least), "f"(kNegativeInfinity<float>), "f"(1.0f));
}

/// The scores of group g of a thread in row h, from where keep() decides; NaN stays in its group.
template <typename Traits, int kM, int kN>
__device__ __forceinline__ void drop_from_group(float (&s)[Traits::kScores], int g, int h, int n) {
  float x[kM];
  load_group<kM>(s, g, h, x);
  const Kept<kM> kept = keep<kM, kN>(x, n);
#pragma unroll
  for (int i = 0; i < kM; ++i) {
    s[4 * (g * (kM / 2) + i / 2) + 2 * h + (i & 1)] = kept.key[i] ? x[i] : kNegativeInfinity<float>;
  }
  if (kept.has_nan) s[4 * g * (kM / 2) + 2 * h] = kNaN;
}

/// Selection in a tile without sinks, windows and invisible keys.
template <typename Traits, int kM, int kN>
__device__ __forceinline__ void drop_clean_keys(float (&s)[Traits::kScores], int n) {
  constexpr int kGroups = Traits::kKeys / 4 / kM;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
#pragma unroll
    for (int h = 0; h < 2; ++h) drop_from_group<Traits, kM, kN>(s, g, h, n);
  }
}

/// The same for 4:8. What is not below the fourth largest are the four largest, but for ties there and NaN, which make
/// them more; never fewer. If that happens in any group of the warp, the rule goes through what is left: keys that are
/// below the fourth largest are out by any rule.
template <typename Traits>
__device__ __forceinline__ void drop_clean_keys_4of8(float (&s)[Traits::kScores]) {
  constexpr int kGroups = Traits::kKeys / 4 / 8;
  float kept_count = 0.0f;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float x[8];
      load_group<8>(s, g, h, x);
      const float fourth = fourth_of_8(x);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        keep_from(fourth, s[4 * (g * 4 + i / 2) + 2 * h + (i & 1)], kept_count);
      }
    }
  }
  if (__all_sync(kFullWarp, kept_count == static_cast<float>(2 * kGroups * 4))) return;
  drop_clean_keys<Traits, 8, 4>(s, 4);
}

/// Whether selection can change anything in keys [first_key, first_key + count) for a warp's 16 rows from `position`
/// on: not where all of them are dense or invisible for every row. The same for all lanes.
__device__ __forceinline__ bool has_sparse_keys(const AttentionParams& p, int dense_keys, int position, int first_key,
                                                int count) {
  const int last_position = position + 15;
  const bool all_sinks = first_key + count <= dense_keys;
  const bool all_recent = p.is_causal && last_position - first_key < p.dense_window_size;
  const bool all_hidden = p.is_causal && first_key > last_position;
  return !all_sinks && !all_recent && !all_hidden;
}

/// Drops what selection does not keep and no sink or window holds. Scores of invisible keys are -inf already: they do
/// not compete. NaN stays in its group. kN: the number of kept keys, or 0 to take it from the parameters. kSinks: the
/// tile may have sinks; kCausal: it has no keys behind a row's position that are visible.
template <typename Traits, int kM, int kN, bool kSinks, bool kCausal>
__device__ __forceinline__ void drop_keys(float (&s)[Traits::kScores], const AttentionParams& p,
                                          const RowLimits (&limits)[2], int dense_keys, int warp_position,
                                          int first_key, int key_offset) {
  using Keys = KeyLayout<Traits>;
  constexpr int kColumns = kM / 2;                                      // 8-column blocks of a group
  constexpr int kGroups = Traits::kKeys / 4 / kM;                       // of a thread and row
  constexpr int kSpan = kM == 4 && Traits::kBlock == 32 ? 32 : 4 * kM;  // keys among which the quad's groups lie
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    if (!has_sparse_keys(p, dense_keys, warp_position, first_key + g * 4 * kM / kSpan * kSpan, kSpan)) continue;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float x[kM];
      load_group<kM>(s, g, h, x);
      const Kept<kM> kept = keep<kM, kN>(x, p.sparsity_n);
#pragma unroll
      for (int i = 0; i < kM; ++i) {
        const int b = g * kColumns + i / 2;
        const int key = Keys::key_of(b, i & 1);
        const bool dense = key >= limits[h].window_first && (kCausal || key <= limits[h].window_last);
        const bool sink = kSinks && key < dense_keys - key_offset;
        if (!kept.key[i] && !dense && !sink) s[4 * b + 2 * h + (i & 1)] = kNegativeInfinity<float>;
      }
      if (kept.has_nan) s[4 * g * kColumns + 2 * h] = kNaN;
    }
  }
}

}  // namespace modelopt::kernels::cuda::sm90
