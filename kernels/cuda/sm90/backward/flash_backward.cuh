// Attention backward for Hopper: TMA and wgmma, warp-specialised. docs/hopper-attention.md, "Backward".
//
// A CTA owns 128 rows and loops over tiles of columns. Gradients of queries: rows are queries, columns are keys.
// Gradients of keys: rows are keys, columns the queries of one head of the group after the other. In the notation of
// backward_params.h, with A, A' = Q, dO | K, V and B, B' = K, V | Q, dO:
//
//     S = A B^T, dP = A' B'^T            wgmma, both operands in shared memory
//     P = exp2(S - L), dS = P (dP - D)   registers; L, D by row | by column
//     dQ += dS B | dV += P B', dK += dS B  wgmma, operand A in registers: the accumulators of S are laid out like it
//
// So P and dS never leave the registers, nothing is added up across CTAs, and every sum has one order: deterministic.
// The price is that S and dP are computed on both sides: 7 products instead of the 5 of a kernel that adds dQ up in
// global memory. There the order of the additions is a dependency between CTAs.
//
// CTA         2 consumer warpgroups of 64 rows, one producer warp. CTAs of the longest loops come first; the heads of a
//             section share the L2 cache.
// Registers   consumers 240, producer 24. Of a consumer with head_dim 128: dK and dV 64 each, S and dP 32 each, P
//             and dS 16 each; or dQ 64, S and dP 48 each, dS 24.
// Shared      A, A' 128 rows, kStages of B, B' (kColumns each), 128-byte swizzle, in panels of 64 elements: 195 KiB
//             (keys) or 211 KiB (queries) for head_dim 128.
// Barriers    rows_full; full and empty per stage. Empties count one arrival per consumer warp.
// Pipeline    After the products of tile i are issued, S and dP of tile i + 1 follow: the exponentials of i + 1 overlap
//             with its dP, dS with dV, and each warpgroup's arithmetic with the other's products.
// Masks       Bits of what is attended (attended_bits.cuh), where the mask is given or a tile is not visible
//             as a whole.
#pragma once

#include <cuda.h>

#include "kernels/cuda/backward/attended_bits.cuh"
#include "kernels/cuda/sm90/backward/backward_traits.h"
#include "kernels/cuda/sm90/backward/select_tile.cuh"
#include "kernels/cuda/sm90/backward/wgmma_products.h"
#include "kernels/cuda/sm90/hopper.h"
#include "kernels/cuda/sm90/producers.cuh"
#include "kernels/cuda/sm90/softmax.h"
#include "kernels/cuda/sm90/wgmma_instructions.h"

namespace modelopt::kernels::cuda::sm90 {

/// What one CTA works on.
struct BackwardTask {
  SequenceRange sequence;
  int batch;
  int head;        ///< of the rows: a query head, or a key head
  int first_head;  ///< query heads whose columns (or own rows) are met: [first_head, first_head + heads)
  int heads;
  int first_row;
  int first_tile, tiles;  ///< of columns, in each head

  [[nodiscard]] __device__ int count() const { return heads * tiles; }
};

template <typename Traits>
__device__ __forceinline__ ColumnRange columns_of_rows(const AttentionParams& p, const SequenceRange& s, int first,
                                                       int last) {
  return Traits::kRowsAreQueries ? keys_of_queries(p, s.q_len, s.k_len, first, last)
                                 : queries_of_keys(p, s.q_len, s.k_len, first, last);
}

template <typename Traits>
__device__ __forceinline__ int row_end(const SequenceRange& s) {
  return Traits::kRowsAreQueries ? s.q_len : s.k_len;
}

template <typename Traits>
__device__ __forceinline__ BackwardTask backward_task(const BackwardArguments& args) {
  const AttentionParams& p = args.params.attention;
  const int in_tile = args.section_heads * p.batch;
  const auto section = static_cast<int>(blockIdx.x) / (in_tile * args.row_tiles);
  const auto in_section = static_cast<int>(blockIdx.x) % (in_tile * args.row_tiles);
  int tile = in_section / in_tile;
  if (Traits::kRowsAreQueries) tile = args.row_tiles - 1 - tile;  // causal: the last queries see the most keys
  const int group = p.heads / p.kv_heads;
  BackwardTask task{};
  task.batch = in_section % in_tile / args.section_heads;
  task.sequence = sequence_range(p, task.batch);
  task.head = section * args.section_heads + in_section % args.section_heads;
  task.first_head = Traits::kRowsAreQueries ? task.head : task.head * group;
  task.heads = Traits::kRowsAreQueries ? 1 : group;
  task.first_row = tile * Traits::kRows;
  const int last_row = min(task.first_row + Traits::kRows, row_end<Traits>(task.sequence)) - 1;
  const ColumnRange range = columns_of_rows<Traits>(p, task.sequence, task.first_row, last_row);
  task.first_tile = range.begin / Traits::kColumns;
  task.tiles = max(0, (range.end + Traits::kColumns - 1) / Traits::kColumns - task.first_tile);
  return task;
}

/// {L, D} of a query row; rows that do not exist have no weights.
__device__ __forceinline__ float2 row_stats(const BackwardParams& b, const SequenceRange& s, int query_head,
                                            int query) {
  if (query >= s.q_len) return {-kNegativeInfinity<float>, 0.0f};
  return b.row_stats[query_head * std::int64_t{b.attention.total_q} + s.q_start + query];
}

/// Loads a tile of keys, permuted in blocks of kSelectionBlock; the last, incomplete one of a sequence pair by pair.
template <typename Traits>
__device__ __forceinline__ void load_permuted(std::uint8_t* tile, const CUtensorMap* map, const CUtensorMap* pairs,
                                              std::uint64_t* full, int first_key, int k_len) {
  constexpr int kBlock = kSelectionBlock;
#pragma unroll
  for (int panel = 0; panel < Traits::kPanels; ++panel) {
    std::uint8_t* to = tile + panel * Traits::kColumnPanelBytes;
    if (first_key + Traits::kColumns <= k_len) {
      copy_box_5d(to, map, full, 64 * panel, first_key / kBlock);
      continue;
    }
#pragma unroll 1
    for (int key = 0; key < Traits::kColumns; key += 2) {
      const int in_block = key % kBlock;
      const int place = key - in_block + in_block % (kBlock / 4) * 4 + in_block / (kBlock / 4) * 2;
      copy_box_2d(to + place * 128, pairs, full, 64 * panel, first_key + key);
    }
  }
}

/// One warp: loads the rows, then tile after tile of the columns.
template <typename Traits>
__device__ __forceinline__ void produce(BackwardShared<Traits>& shared, const BackwardArguments& args,
                                        const BackwardTask& task) {
  const auto lane = static_cast<int>(threadIdx.x) % 32;
  const AttentionParams& p = args.params.attention;
  const int group = p.heads / p.kv_heads;
  const int map_head = Traits::kSelects ? task.head / group : 0;
  const CUtensorMap* maps = args.maps + (std::int64_t{task.batch} * args.map_heads + map_head) * kBackwardMapKinds;
  if (lane == 0) {
#pragma unroll
    for (int kind = 0; kind < (Traits::kSelects ? kBackwardMapKinds : kColumnPairMap); ++kind) {
      tensor_map_acquire(maps + kind);
    }
    barrier_expect_bytes(&shared.rows_full, 2 * Traits::kRowTileBytes);
#pragma unroll
    for (int panel = 0; panel < Traits::kPanels; ++panel) {
#pragma unroll
      for (int w = 0; w < Traits::kWarpgroups; ++w) {
        const int to = panel * Traits::kRowPanelBytes + w * Traits::kWarpgroupRows * 128;
        const int row = task.first_row + w * Traits::kWarpgroupRows;
        copy_box_3d(shared.rows + to, maps + kRowMap, &shared.rows_full, 64 * panel, task.head, row);
        copy_box_3d(shared.second_rows + to, maps + kSecondRowMap, &shared.rows_full, 64 * panel, task.head, row);
      }
    }
  }
  Ring<Traits::kStages> ring(1);
  for (int h = 0; h < task.heads; ++h) {
    const int query_head = task.first_head + h;
    const int head = Traits::kRowsAreQueries ? query_head / group : query_head;
    for (int t = 0; t < task.tiles; ++t) {
      const int first = (task.first_tile + t) * Traits::kColumns;
      std::uint64_t* full = &shared.full[ring.stage];
      barrier_wait(&shared.empty[ring.stage], ring.parity);
      if constexpr (!Traits::kRowsAreQueries) {
        static_assert(Traits::kColumns == 64, "two columns for each lane");
        const float2 low = row_stats(args.params, task.sequence, query_head, first + 2 * lane);
        const float2 high = row_stats(args.params, task.sequence, query_head, first + 2 * lane + 1);
        reinterpret_cast<float2*>(shared.logsumexp[ring.stage])[lane] = {low.x, high.x};
        reinterpret_cast<float2*>(shared.dot[ring.stage])[lane] = {low.y, high.y};
        if (lane != 0) barrier_arrive(full);
      }
      if (lane == 0) {
        barrier_expect_bytes(full, 2 * Traits::kColumnTileBytes);
        if constexpr (Traits::kSelects) {
          load_permuted<Traits>(shared.columns[ring.stage], maps + kColumnMap, maps + kColumnPairMap, full, first,
                                task.sequence.k_len);
          load_permuted<Traits>(shared.second_columns[ring.stage], maps + kSecondColumnMap, maps + kSecondColumnPairMap,
                                full, first, task.sequence.k_len);
        } else {
#pragma unroll
          for (int panel = 0; panel < Traits::kPanels; ++panel) {
            const int to = panel * Traits::kColumnPanelBytes;
            copy_box_3d(shared.columns[ring.stage] + to, maps + kColumnMap, full, 64 * panel, head, first);
            copy_box_3d(shared.second_columns[ring.stage] + to, maps + kSecondColumnMap, full, 64 * panel, head, first);
          }
        }
      }
      ring.advance();
    }
  }
}

/// Shared-memory matrix descriptor with 128-byte swizzle; leading: bytes between panels, where columns are contracted.
__device__ __forceinline__ std::uint64_t tile_descriptor(const void* tile, int leading) {
  const std::uint32_t address = shared_address(tile);
  return static_cast<std::uint64_t>((address & 0x3FFFF) >> 4) | static_cast<std::uint64_t>(leading >> 4) << 16 |
         std::uint64_t{1024 >> 4} << 32 | std::uint64_t{1} << 62;
}

/// One warpgroup's 64 rows.
template <typename Traits>
struct BackwardConsumer {
  using Element = typename Traits::Element;
  using Bits = AttendedBits<Traits::kWords>;
  static constexpr int kBlocks = Traits::kColumns / 8;  ///< 8-column blocks of the scores
  static constexpr bool kRowsAreQueries = Traits::kRowsAreQueries;

  BackwardShared<Traits>& shared;
  const BackwardArguments& args;
  const BackwardTask& task;
  const int warpgroup;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int quad_lane = thread % 4;
  const int first_row = task.first_row + warpgroup * Traits::kWarpgroupRows;  ///< of the warpgroup
  const int row = first_row + thread / 32 * 16 + thread % 32 / 4;             ///< the thread's other one is row + 8

  /// d = A B^T.
  __device__ __forceinline__ void issue_scores(float (&d)[Traits::kScores], const std::uint8_t* rows,
                                               const std::uint8_t* columns) const {
    const std::uint64_t a = tile_descriptor(rows + warpgroup * Traits::kWarpgroupRows * 128, 16);
    const std::uint64_t b = tile_descriptor(columns, 16);
    WgmmaProduct<Element, Traits::kColumns>::issue(d, a, b);
#pragma unroll
    for (int step = 1; step < Traits::kHeadDim / 16; ++step) {
      const int panel = step / 4;
      const int within = step % 4 * 2;  // 32 bytes, in units of 16
      Wgmma<Element, Traits::kColumns>::scores(d, a + within + panel * (Traits::kRowPanelBytes / 16),
                                               b + within + panel * (Traits::kColumnPanelBytes / 16), 1);
    }
    wgmma_commit();
  }

  /// gradient += weights B.
  __device__ __forceinline__ void issue_gradient(float (&gradient)[Traits::kGradients],
                                                 const std::uint32_t (&weights)[Traits::kWeights],
                                                 const std::uint8_t* columns) const {
    const std::uint64_t b = tile_descriptor(columns, Traits::kColumnPanelBytes);
#pragma unroll
    for (int i = 0; i < Traits::kColumns / 16; ++i) {
      Wgmma<Element, Traits::kHeadDim>::values(gradient, weights + 4 * i, b + 128 * i);
    }
    wgmma_commit();
  }

  __device__ __forceinline__ void issue_tile(float (&s)[Traits::kScores], float (&dp)[Traits::kScores],
                                             const Ring<Traits::kStages>& ring) const {
    barrier_wait(&shared.full[ring.stage], ring.parity);
    wgmma_fence();
    issue_scores(s, shared.rows, shared.columns[ring.stage]);
    issue_scores(dp, shared.second_rows, shared.second_columns[ring.stage]);
  }

  __device__ __forceinline__ void release(int stage) const {
    if (thread % 32 == 0) barrier_arrive(&shared.empty[stage]);
  }

  // --- what is attended ----------------------------------------------------------------------------------------------

  /// The mask's words for a tile, as they are loaded; taken apart when the scores are there.
  struct MaskWords {
    std::uint32_t word[kRowsAreQueries ? 2 * Traits::kWords : 1];
  };

  __device__ __forceinline__ std::uint8_t* mask_row(int query_head, int query) const {
    const AttentionParams& p = args.params.attention;
    return p.mask + (std::int64_t{task.sequence.q_start + query} * p.heads + query_head) * p.mask_bytes;
  }

  __device__ __forceinline__ MaskWords load_mask(int query_head, int first_column) const {
    MaskWords words{};
    if constexpr (!Traits::kMasked) return words;
    const int q_len = task.sequence.q_len;
    if constexpr (kRowsAreQueries) {
      const auto row_words = static_cast<int>(args.params.attention.mask_bytes / 4);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if (row + 8 * h >= q_len) continue;
        const auto* keys = reinterpret_cast<const std::uint32_t*>(mask_row(query_head, row + 8 * h));
#pragma unroll
        for (int w = 0; w < Traits::kWords; ++w) {
          const int at = first_column / 32 + w;
          if (at < row_words) words.word[h * Traits::kWords + w] = __ldg(keys + at);
        }
      }
    } else {
      const AttentionParams& p = args.params.attention;
      const int warp_row = first_row + thread / 32 * 16;
#pragma unroll
      for (int w = 0; w < Traits::kWords; ++w) {
        const int query = first_column + thread % 32 + 32 * w;
        const ColumnRange seen = keys_of_queries(p, q_len, task.sequence.k_len, query, query);
        if (query >= q_len || warp_row >= seen.end || warp_row + 16 <= seen.begin) continue;  // none attended
        const auto* keys = reinterpret_cast<const std::uint16_t*>(mask_row(query_head, query));
        words.word[0] |= static_cast<std::uint32_t>(__ldg(keys + warp_row / 16)) << (16 * w);
      }
    }
    return words;
  }

  __device__ __forceinline__ Bits position_bits(int first_column) const {
    const AttentionParams& p = args.params.attention;
    const ColumnRange ranges[2] = {columns_of_rows<Traits>(p, task.sequence, row, row),
                                   columns_of_rows<Traits>(p, task.sequence, row + 8, row + 8)};
    return bits_by_position<Traits::kWords>(ranges, first_column, quad_lane);
  }

  __device__ __forceinline__ Bits mask_bits(const MaskWords& words) const {
    if constexpr (kRowsAreQueries) {
      Bits bits;
#pragma unroll
      for (int i = 0; i < 2 * Traits::kWords; ++i) {
        bits.row[i / Traits::kWords][i % Traits::kWords] = words.word[i] >> (2 * quad_lane);
      }
      return bits;
    } else {
      return bits_of_keys<Traits::kWords>(words.word[0]);
    }
  }

  /// Whether each of the warpgroup's rows sees every column of the tile.
  __device__ __forceinline__ bool all_visible(int first_column) const {
    const AttentionParams& p = args.params.attention;
    const int last_row = first_row + Traits::kWarpgroupRows - 1;
    const ColumnRange first = columns_of_rows<Traits>(p, task.sequence, first_row, first_row);
    const ColumnRange last = columns_of_rows<Traits>(p, task.sequence, last_row, last_row);
    return max(first.begin, last.begin) <= first_column && min(first.end, last.end) >= first_column + Traits::kColumns;
  }

  // --- arithmetic ----------------------------------------------------------------------------------------------------

  /// Finds what is attended and writes it to the mask; the scores of other keys become -inf.
  __device__ __forceinline__ void select(float (&s)[Traits::kScores], int first_column) const {
    const AttentionParams& p = args.params.attention;
    const SequenceRange& sequence = task.sequence;
    const int offset = sequence.k_len - sequence.q_len;
    const SelectedTile tile{
        .rows = {.k_len = sequence.k_len, .dense_keys = sequence.sparse_nm ? p.num_sink_tokens : 1 << 30},
        .block_position = first_row + offset,
        .warp_position = uniform(first_row + thread / 32 * 16 + offset),
        .position = row + offset,
        .first_key = first_column,
        .all_visible = all_visible(first_column)};
    const auto bits = select_scores<Traits>(s, p, tile, quad_lane);
    std::uint8_t* mask_rows[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      mask_rows[h] = row + 8 * h < sequence.q_len ? mask_row(task.head, row + 8 * h) : nullptr;
    }
    write_selected_bits(bits, mask_rows, static_cast<int>(p.mask_bytes), first_column, quad_lane);
  }

  /// S becomes P; exactly 0 where a row does not attend.
  __device__ __forceinline__ void weigh(float (&s)[Traits::kScores], const float2 (&stats)[2], int stage,
                                        const MaskWords& words, int first_column) const {
    if constexpr (Traits::kSelects) select(s, first_column);
    const float scale = args.scale_log2;
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
      float l[2] = {stats[0].x, stats[1].x};
      if constexpr (!kRowsAreQueries) load_pair(l, shared.logsumexp[stage], n);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        s[4 * n + e] = exp2_approx(fmaf(s[4 * n + e], scale, -l[kRowsAreQueries ? e / 2 : e % 2]));
      }
    }
    if constexpr (Traits::kSelects) return;
    if (!Traits::kMasked && all_visible(first_column)) return;
    const Bits bits = Traits::kMasked ? mask_bits(words) : position_bits(first_column);
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) s[4 * n + e] = bits.attends(e / 2, n, e % 2) ? s[4 * n + e] : 0.0f;
    }
  }

  /// P and dP become dS, rounded.
  __device__ __forceinline__ void differentiate(const float (&s)[Traits::kScores], const float (&dp)[Traits::kScores],
                                                const float2 (&stats)[2], int stage,
                                                std::uint32_t (&ds)[Traits::kWeights]) const {
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
      float d[2] = {stats[0].y, stats[1].y};
      if constexpr (!kRowsAreQueries) load_pair(d, shared.dot[stage], n);
      float x[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) x[e] = s[4 * n + e] * (dp[4 * n + e] - d[kRowsAreQueries ? e / 2 : e % 2]);
      ds[2 * n] = pack<Element>(x[0], x[1]);
      ds[2 * n + 1] = pack<Element>(x[2], x[3]);
    }
  }

  /// The values of the thread's two columns of a block.
  __device__ __forceinline__ void load_pair(float (&pair)[2], const float* of_columns, int n) const {
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                 : "=f"(pair[0]), "=f"(pair[1])
                 : "r"(shared_address(of_columns) + 8 * quad_lane + 32 * n));
  }

  // --- results -------------------------------------------------------------------------------------------------------

  /// Writes the thread's part of two rows, or adds it to fp32 sums.
  __device__ __forceinline__ void store(const float (&gradient)[Traits::kGradients], void* rounded, float* sums,
                                        const float (&factor)[2]) const {
    const BackwardParams& b = args.params;
    const Strides& strides = kRowsAreQueries ? b.query_rows : b.key_rows;
    const int head_dim = b.attention.head_dim;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int at = row + 8 * h;
      const bool exists = at < row_end<Traits>(task.sequence);
      const std::int64_t first =
          ((kRowsAreQueries ? task.sequence.q_start : task.sequence.k_start) + at) * strides.row +
          task.head * strides.head;
      if (sums != nullptr) {
        if (!exists) continue;
#pragma unroll
        for (int n = 0; n < Traits::kHeadDim / 8; ++n) {
          if (8 * n >= head_dim) continue;
          auto* sum = reinterpret_cast<float2*>(sums + first + 8 * n + 2 * quad_lane);
          const float2 before = *sum;
          *sum = {before.x + gradient[4 * n + 2 * h] * factor[h], before.y + gradient[4 * n + 2 * h + 1] * factor[h]};
        }
        continue;
      }
      if (rounded == nullptr) continue;
      auto* out = static_cast<Element*>(rounded) + first;
#pragma unroll
      for (int q = 0; q < Traits::kHeadDim / 32; ++q) {
        // 4 x 4 transpose over the quad: lane c gets the 16 bytes of 8-column block 4q + c
        std::uint32_t x[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int n = 4 * (4 * q + i) + 2 * h;
          x[i] = pack<Element>(gradient[n] * factor[h], gradient[n + 1] * factor[h]);
        }
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
          const std::uint32_t y = __shfl_xor_sync(kFullWarp, (quad_lane & 1) != 0 ? x[i] : x[i + 1], 1);
          ((quad_lane & 1) != 0 ? x[i] : x[i + 1]) = y;
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const std::uint32_t y = __shfl_xor_sync(kFullWarp, (quad_lane & 2) != 0 ? x[i] : x[i + 2], 2);
          ((quad_lane & 2) != 0 ? x[i] : x[i + 2]) = y;
        }
        const int column = 8 * (4 * q + quad_lane);
        if (exists && column < head_dim) *reinterpret_cast<uint4*>(out + column) = make_uint4(x[0], x[1], x[2], x[3]);
      }
    }
  }

  // --- the loops -----------------------------------------------------------------------------------------------------

  __device__ __forceinline__ void run_queries() const {
    float dq[Traits::kGradients];
    std::uint32_t ds[Traits::kWeights];
    const float2 stats[2] = {row_stats(args.params, task.sequence, task.head, row),
                             row_stats(args.params, task.sequence, task.head, row + 8)};
    clear(dq);
    Ring<Traits::kStages> ring(0);
    barrier_wait(&shared.rows_full, 0);
#pragma unroll 1
    for (int tile = 0; tile < task.tiles; ++tile) {
      float s[Traits::kScores], dp[Traits::kScores];
      const int first_column = (task.first_tile + tile) * Traits::kColumns;
      issue_tile(s, dp, ring);
      const MaskWords words = load_mask(task.head, first_column);
      wgmma_wait<1>();  // dP is under way
      wgmma_results(s);
      if (tile > 0) release(ring.stage == 0 ? Traits::kStages - 1 : ring.stage - 1);
      weigh(s, stats, ring.stage, words, first_column);
      wgmma_wait<0>();
      wgmma_results(dp);
      differentiate(s, dp, stats, ring.stage, ds);
      wgmma_fence();
      issue_gradient(dq, ds, shared.columns[ring.stage]);
      ring.advance();
    }
    wgmma_wait<0>();
    wgmma_results(dq);
    const float scale = args.params.attention.scale;
    // a row whose L is NaN is NaN, whatever it attends to
    const float factor[2] = {isnan(stats[0].x) ? stats[0].x : scale, isnan(stats[1].x) ? stats[1].x : scale};
    store(dq, args.params.grad_q, nullptr, factor);
  }

  __device__ __forceinline__ void run_keys() const {
    float dk[Traits::kGradients], dv[Traits::kGradients];
    std::uint32_t p[Traits::kWeights], ds[Traits::kWeights];
    const float2 none[2]{};
    clear(dk);
    clear(dv);
    Ring<Traits::kStages> ring(0);
    barrier_wait(&shared.rows_full, 0);
    int head = task.first_head, tile = 0;
    const int count = task.count();
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      float s[Traits::kScores], dp[Traits::kScores];
      const int first_column = (task.first_tile + tile) * Traits::kColumns;
      issue_tile(s, dp, ring);
      const MaskWords words = load_mask(head, first_column);
      wgmma_wait<1>();  // dP is under way
      wgmma_results(s);
      if (i > 0) release(ring.stage == 0 ? Traits::kStages - 1 : ring.stage - 1);
      weigh(s, none, ring.stage, words, first_column);
#pragma unroll
      for (int j = 0; j < Traits::kWeights; ++j) p[j] = pack<Element>(s[2 * j], s[2 * j + 1]);
      wgmma_fence();
      issue_gradient(dv, p, shared.second_columns[ring.stage]);
      wgmma_wait<1>();  // dV is under way
      wgmma_results(dp);
      differentiate(s, dp, none, ring.stage, ds);
      wgmma_fence();
      issue_gradient(dk, ds, shared.columns[ring.stage]);
      if constexpr (Traits::kHeadDim == 128) wgmma_wait<1>();  // S and dP of the next tile take the registers of P
      ring.advance();
      if (++tile == task.tiles) {
        tile = 0;
        ++head;
      }
    }
    wgmma_wait<0>();
    wgmma_results(dk);
    wgmma_results(dv);
    const float scale = args.params.attention.scale;
    store(dk, args.params.grad_k, args.params.sum_k, {scale, scale});
    store(dv, args.params.grad_v, args.params.sum_v, {1.0f, 1.0f});
  }

  /// Not by plain moves: the compiler would sink them to where products are under way, and then wait for these.
  static __device__ __forceinline__ void clear(float (&gradient)[Traits::kGradients]) {
#pragma unroll
    for (float& x : gradient) asm volatile("mov.b32 %0, 0;" : "=f"(x));
  }
};

template <typename Traits>
__global__ void __launch_bounds__(Traits::kThreads, 1) flash_backward(const __grid_constant__ BackwardArguments args) {
  extern __shared__ std::uint8_t raw[];
  auto& shared = *reinterpret_cast<BackwardShared<Traits>*>((reinterpret_cast<std::uintptr_t>(raw) + 1023) &
                                                            ~std::uintptr_t{1023});
  const BackwardTask task = backward_task<Traits>(args);
  if (task.first_row >= row_end<Traits>(task.sequence)) return;
  if (threadIdx.x == 0) {
    barrier_init(&shared.rows_full, 1);
    for (int i = 0; i < Traits::kStages; ++i) {
      barrier_init(&shared.full[i], Traits::kRowsAreQueries ? 1 : 32);
      barrier_init(&shared.empty[i], 4 * Traits::kWarpgroups);
    }
    barrier_init_fence();
  }
  __syncthreads();
  const int warpgroup = __shfl_sync(kFullWarp, static_cast<int>(threadIdx.x) / 128, 0);
  if (warpgroup == 0) {
    registers_shrink<Traits::kProducerRegisters>();
    if (threadIdx.x < 32) produce(shared, args, task);
  } else {
    registers_grow<Traits::kConsumerRegisters>();
    const BackwardConsumer<Traits> consumer{shared, args, task, warpgroup - 1};
    if constexpr (Traits::kRowsAreQueries) {
      consumer.run_queries();
    } else {
      consumer.run_keys();
    }
  }
}

}  // namespace modelopt::kernels::cuda::sm90
