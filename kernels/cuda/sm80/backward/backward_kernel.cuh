// Attention backward for 16-bit elements with mma.sync and cp.async (any GPU from sm_80 on).
//
// One block of 4 warps owns 64 rows, 16 a warp, and loops over tiles of kColumns columns; both are counted from the
// sequence's first row. Gradients of queries: rows are queries, columns are keys. Gradients of keys: rows are keys,
// columns are the queries of one head of the group after the other. So one kernel serves both, and every sum has one
// order, without atomics: the price is that scores are computed once for each (7 products instead of 5).
//
//     S = A B^T, dP = A' B'^T            A, A' = Q, dO | K, V;  B, B' = K, V | Q, dO
//     P = exp2(S - L), dS = P (dP - D)   L, D by row | by column
//     dQ += dS B | dK += dS B, dV += P B'
//
// P and dS stay in registers: the accumulators of S are laid out like operand A of the second product.
//
//   shared memory   A | A' | kStages x (B | B' | L, D of the columns)
//   registers       a gradient of a warp's rows takes head_dim / 2 of a thread, S and dP kColumns / 2 each
//
//   head_dim   gradients    rows x columns   stages   shared memory
//   <= 64      dQ | dK, dV  64 x 64          2        49 KiB
//   <= 128     dQ           64 x 64          2        97 KiB
//   <= 128     dK, dV       64 x 32          2        65 KiB
//   <= 256     dQ | dK | dV 64 x 32          1        97 KiB
#pragma once

#include <cstdint>

#include "kernels/cuda/backward/attended_bits.cuh"
#include "kernels/cuda/backward/backward_params.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/sm80/backward/launch_backward.h"
#include "kernels/cuda/sm80/key_order.h"
#include "kernels/cuda/sm80/key_value_stream.cuh"
#include "kernels/cuda/sm80/mma_sync.cuh"

namespace modelopt::kernels::cuda::sm80 {

template <typename Element_, int kHeadDim_, Gradients kGradients_>
struct BackwardConfig {
  using Element = Element_;
  static constexpr int kHeadDim = kHeadDim_;  ///< padded with zeros in shared memory
  static constexpr Gradients kGradients = kGradients_;
  static constexpr bool kRowsAreQueries = kGradients == Gradients::kQueries;
  static constexpr bool kScoreGradients = kGradients != Gradients::kValues;  ///< dS is needed
  static constexpr bool kValueGradients = kGradients == Gradients::kValues || kGradients == Gradients::kKeysAndValues;

  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kRows = kBackwardRows;
  static constexpr bool kFits64 = kHeadDim <= (kGradients == Gradients::kKeysAndValues ? 64 : 128);
  static constexpr int kColumns = kFits64 ? 64 : 32;
  static constexpr int kWords = kColumns / 32;  ///< of attended bits
  static constexpr int kStages = kHeadDim <= 128 ? 2 : 1;

  static constexpr int kPitch = 2 * kHeadDim;  ///< bytes of a row in shared memory
  static constexpr int kRowTileBytes = kRows * kPitch;
  static constexpr int kColumnTileBytes = kColumns * kPitch;
  static constexpr int kStageBytes = 2 * kColumnTileBytes + kColumns * static_cast<int>(sizeof(float2));
  static constexpr int kSharedBytes = 2 * kRowTileBytes + kStages * kStageBytes;
};

/// One block's rows, and the columns that they meet.
struct BackwardBlock {
  SequenceRange sequence;
  int head = 0;  ///< of the rows: a query head, or a key head
  int first_row = 0;
  ColumnRange columns{};
};

template <class C>
__device__ BackwardBlock backward_block(const BackwardLaunch& launch) {
  const AttentionParams& p = launch.params.attention;
  const int heads = C::kRowsAreQueries ? p.heads : p.kv_heads;
  const auto tiles = static_cast<unsigned>(launch.row_tiles);
  const auto of_batch = static_cast<int>(blockIdx.x / tiles);
  auto tile = static_cast<int>(blockIdx.x % tiles);
  if (C::kRowsAreQueries) tile = launch.row_tiles - 1 - tile;  // where causal rows meet the most columns, first
  BackwardBlock block{.sequence = sequence_range(p, of_batch / heads), .head = of_batch % heads};
  block.first_row = tile * C::kRows;
  const SequenceRange& s = block.sequence;
  const int last = min(block.first_row + C::kRows, C::kRowsAreQueries ? s.q_len : s.k_len) - 1;
  block.columns = C::kRowsAreQueries ? keys_of_queries(p, s.q_len, s.k_len, block.first_row, last)
                                     : queries_of_keys(p, s.q_len, s.k_len, block.first_row, last);
  return block;
}

/// A tensor's rows of one sequence and head.
struct HeadRows {
  const std::uint16_t* data = nullptr;
  std::int64_t stride = 0;
};

__device__ inline HeadRows head_rows(const void* tensor, const Strides& strides, int first_row, int head) {
  return {static_cast<const std::uint16_t*>(tensor) + first_row * strides.row + head * strides.head, strides.row};
}

/// The block's rows and stages of columns in shared memory.
template <class C>
class BackwardTiles {
 public:
  __device__ BackwardTiles(const BackwardLaunch& launch, const BackwardBlock& block, std::uint32_t shared)
      : launch_(launch), block_(block), shared_(shared) {}

  __device__ void load_rows() const {
    const SequenceRange& s = block_.sequence;
    const AttentionParams& p = launch_.params.attention;
    const HeadRows first = C::kRowsAreQueries ? head_rows(p.q, p.q_strides, s.q_start, block_.head)
                                              : head_rows(p.k, p.k_strides, s.k_start, block_.head);
    const HeadRows second =
        C::kRowsAreQueries ? output_gradient(block_.head) : head_rows(p.v, p.v_strides, s.k_start, block_.head);
    const int end = C::kRowsAreQueries ? s.q_len : s.k_len;
    copy<C::kRows>(shared_, first, block_.first_row, end);
    copy<C::kRows>(shared_ + C::kRowTileBytes, second, block_.first_row, end);
  }

  /// Starts the copy of the columns from `first_column` on, for the given query head.
  __device__ void load_columns(int stage, int query_head, int first_column) const {
    const SequenceRange& s = block_.sequence;
    const AttentionParams& p = launch_.params.attention;
    const int kv_head = query_head / (p.heads / p.kv_heads);
    const HeadRows first = C::kRowsAreQueries ? head_rows(p.k, p.k_strides, s.k_start, kv_head)
                                              : head_rows(p.q, p.q_strides, s.q_start, query_head);
    const HeadRows second =
        C::kRowsAreQueries ? head_rows(p.v, p.v_strides, s.k_start, kv_head) : output_gradient(query_head);
    const int end = C::kRowsAreQueries ? s.k_len : s.q_len;
    copy<C::kColumns>(columns(stage), first, first_column, end);
    copy<C::kColumns>(second_columns(stage), second, first_column, end);
    if constexpr (!C::kRowsAreQueries) {
      for (int i = static_cast<int>(threadIdx.x); i < C::kColumns; i += C::kThreads) {
        const float2 stats = row_stats(query_head, first_column + i);
        asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(stats_of(stage) + 8 * i), "f"(stats.x), "f"(stats.y)
                     : "memory");
      }
    }
  }

  [[nodiscard]] __device__ std::uint32_t rows() const { return shared_; }
  [[nodiscard]] __device__ std::uint32_t second_rows() const { return shared_ + C::kRowTileBytes; }
  [[nodiscard]] __device__ std::uint32_t columns(int stage) const {
    return shared_ + 2 * C::kRowTileBytes + stage * C::kStageBytes;
  }
  [[nodiscard]] __device__ std::uint32_t second_columns(int stage) const {
    return columns(stage) + C::kColumnTileBytes;
  }
  [[nodiscard]] __device__ std::uint32_t stats_of(int stage) const { return columns(stage) + 2 * C::kColumnTileBytes; }

  /// {L, D} of a query row; rows that do not exist have no weights.
  [[nodiscard]] __device__ float2 row_stats(int query_head, int query) const {
    const SequenceRange& s = block_.sequence;
    if (query >= s.q_len) return {-kNegativeInfinity<float>, 0.0f};
    return launch_.params.row_stats[query_head * std::int64_t{launch_.params.attention.total_q} + s.q_start + query];
  }

 private:
  [[nodiscard]] __device__ HeadRows output_gradient(int query_head) const {
    return head_rows(launch_.params.grad_output, launch_.params.query_rows, block_.sequence.q_start, query_head);
  }

  template <int kTileRows>
  __device__ void copy(std::uint32_t tile, const HeadRows& rows, int first_row, int row_end) const {
    using Copier = RowCopier<kTileRows, C::kHeadDim, C::kThreads, true, false, &query_swizzle>;
    Copier(rows.data, rows.stride, first_row, row_end, launch_.params.attention.head_dim, launch_.whole_chunks)
        .copy_tile(tile, first_row);
  }

  const BackwardLaunch& launch_;
  const BackwardBlock& block_;
  std::uint32_t shared_;
};

/// One warp's 16 rows.
template <class C>
class BackwardWarp {
 public:
  using Element = typename C::Element;
  using Bits = AttendedBits<C::kWords>;

  __device__ BackwardWarp(const BackwardLaunch& launch, const BackwardBlock& block, const BackwardTiles<C>& tiles)
      : launch_(launch), block_(block), tiles_(tiles), first_row_(block.first_row + 16 * warp()) {
    // Operand A, 16x16: matrices (rows 0-7, 8-15) x (chunks 0, 1)
    row_offset_ = offset_in_tile(16 * warp() + lane() % 16, lane() / 16);
    // Operand B of 8 columns x 16 elements: matrices (columns 0-7, 8-15) x (chunks 0, 1)
    column_offset_ = offset_in_tile(lane() / 16 * 8 + lane() % 8, lane() / 8 % 2);
    // Operand B of 16 columns x 8 elements, transposed: matrices (columns 0-7, 8-15) in chunks (n, n + 1)
    transposed_offset_ = offset_in_tile(lane() % 16, lane() / 16);
    if constexpr (C::kRowsAreQueries) {
#pragma unroll
      for (int h = 0; h < 2; ++h) stats_[h] = tiles.row_stats(block.head, row(h));
    }
#pragma unroll
    for (int n = 0; n < C::kHeadDim / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if constexpr (C::kScoreGradients) score_gradient_[n][e] = 0.0f;
        if constexpr (C::kValueGradients) value_gradient_[n][e] = 0.0f;
      }
    }
  }

  __device__ void add_tile(int stage, int query_head, int first_column) {
    float s[kBlocks][4];
    multiply_rows(s, tiles_.rows(), tiles_.columns(stage));
    compute_weights(s, stage, query_head, first_column);
    if constexpr (C::kValueGradients) accumulate(value_gradient_, s, tiles_.second_columns(stage));
    if constexpr (C::kScoreGradients) {
      float dp[kBlocks][4];
      multiply_rows(dp, tiles_.second_rows(), tiles_.second_columns(stage));
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
        const Pair d = pair_of(stage, n, &float2::y);
#pragma unroll
        for (int e = 0; e < 4; ++e) s[n][e] *= dp[n][e] - d.of(e);
      }
      accumulate(score_gradient_, s, tiles_.columns(stage));
    }
  }

  __device__ void store() const {
    const BackwardParams& b = launch_.params;
    const float scale = b.attention.scale;
    if constexpr (C::kRowsAreQueries) {
      // a row whose L is NaN is NaN, whatever it attends to
      store_gradient(score_gradient_, b.grad_q, nullptr,
                     {isnan(stats_[0].x) ? stats_[0].x : scale, isnan(stats_[1].x) ? stats_[1].x : scale});
    } else {
      if constexpr (C::kScoreGradients) store_gradient(score_gradient_, b.grad_k, b.sum_k, {scale, scale});
      if constexpr (C::kValueGradients) store_gradient(value_gradient_, b.grad_v, b.sum_v, {1.0f, 1.0f});
    }
  }

 private:
  static constexpr int kBlocks = C::kColumns / 8;  ///< 8-column blocks of the scores

  [[nodiscard]] static __device__ int warp() { return static_cast<int>(threadIdx.x) / 32; }
  [[nodiscard]] static __device__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
  [[nodiscard]] __device__ int row(int h) const { return first_row_ + lane() / 4 + 8 * h; }

  [[nodiscard]] static __device__ std::uint32_t offset_in_tile(int row, int chunk) {
    return row * C::kPitch + 16 * (chunk ^ query_swizzle(row));
  }
  /// The address `chunk` chunks further on (key_order.h).
  [[nodiscard]] static __device__ std::uint32_t advance_chunks(std::uint32_t address, int chunk) {
    return (address ^ (16 * (chunk & 7))) + 16 * (chunk & ~7);
  }

  /// A value of each of the four scores of an 8-column block: by row or by column.
  struct Pair {
    float first, second;
    [[nodiscard]] __device__ float of(int e) const {
      return (C::kRowsAreQueries ? e / 2 : e % 2) == 0 ? first : second;
    }
  };
  [[nodiscard]] __device__ Pair pair_of(int stage, int n, float float2::*member) const {
    if constexpr (C::kRowsAreQueries) return {stats_[0].*member, stats_[1].*member};
    float4 both;  // {L, D} of columns 2c and 2c + 1
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(both.x), "=f"(both.y), "=f"(both.z), "=f"(both.w)
                 : "r"(tiles_.stats_of(stage) + 64 * n + 16 * (lane() % 4)));
    const float2 low{both.x, both.y}, high{both.z, both.w};
    return {low.*member, high.*member};
  }

  /// d = rows columns^T, over head_dim in ascending steps of 16.
  __device__ void multiply_rows(float (&d)[kBlocks][4], std::uint32_t rows, std::uint32_t columns) const {
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) d[n][e] = 0.0f;
    }
#pragma unroll
    for (int step = 0; step < C::kHeadDim / 16; ++step) {
      std::uint32_t a[4];
      load_matrices(a, advance_chunks(rows + row_offset_, 2 * step));
#pragma unroll
      for (int n = 0; n < kBlocks; n += 2) {
        std::uint32_t b[4];
        load_matrices(b, advance_chunks(columns + column_offset_, 2 * step) + 8 * n * C::kPitch);
        mma_16x8x16<Element>(d[n], a, b[0], b[1]);
        mma_16x8x16<Element>(d[n + 1], a, b[2], b[3]);
      }
    }
  }

  /// gradient += weights columns; the weights are rounded to elements.
  __device__ void accumulate(float (&gradient)[C::kHeadDim / 8][4], const float (&weights)[kBlocks][4],
                             std::uint32_t columns) const {
#pragma unroll
    for (int step = 0; step < C::kColumns / 16; ++step) {
      std::uint32_t a[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a[i] = pack<Element>(weights[2 * step + i / 2][i % 2 * 2], weights[2 * step + i / 2][i % 2 * 2 + 1]);
      }
#pragma unroll
      for (int n = 0; n < C::kHeadDim / 8; n += 2) {
        std::uint32_t b[4];
        load_matrices_transposed(b, advance_chunks(columns + transposed_offset_, n) + 16 * step * C::kPitch);
        mma_16x8x16<Element>(gradient[n], a, b[0], b[1]);
        mma_16x8x16<Element>(gradient[n + 1], a, b[2], b[3]);
      }
    }
  }

  /// Scores become weights; exactly 0 where a row does not attend.
  __device__ void compute_weights(float (&s)[kBlocks][4], int stage, int query_head, int first_column) const {
    const float scale = launch_.scale_log2;
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
      const Pair l = pair_of(stage, n, &float2::x);
#pragma unroll
      for (int e = 0; e < 4; ++e) s[n][e] = exp2_approx(__fmaf_rn(s[n][e], scale, -l.of(e)));
    }
    const bool masked = launch_.params.attention.mask != nullptr;
    if (!masked && all_visible(first_column)) return;
    const Bits bits = masked ? mask_bits(query_head, first_column) : position_bits(first_column);
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) s[n][e] = bits.attends(e / 2, n, e % 2) ? s[n][e] : 0.0f;
    }
  }

  [[nodiscard]] __device__ ColumnRange columns_of(int first, int last) const {
    const AttentionParams& p = launch_.params.attention;
    const SequenceRange& s = block_.sequence;
    return C::kRowsAreQueries ? keys_of_queries(p, s.q_len, s.k_len, first, last)
                              : queries_of_keys(p, s.q_len, s.k_len, first, last);
  }

  /// Whether each of the warp's rows sees every column of the tile. The same for all lanes.
  [[nodiscard]] __device__ bool all_visible(int first_column) const {
    const ColumnRange first = columns_of(first_row_, first_row_), last = columns_of(first_row_ + 15, first_row_ + 15);
    return max(first.begin, last.begin) <= first_column && min(first.end, last.end) >= first_column + C::kColumns;
  }

  [[nodiscard]] __device__ Bits position_bits(int first_column) const {
    const ColumnRange ranges[2] = {columns_of(row(0), row(0)), columns_of(row(1), row(1))};
    return bits_by_position<C::kWords>(ranges, first_column, lane() % 4);
  }

  /// The mask of one query of the sequence.
  [[nodiscard]] __device__ const std::uint8_t* mask_row(int query_head, int query) const {
    const AttentionParams& p = launch_.params.attention;
    return p.mask + (std::int64_t{block_.sequence.q_start + query} * p.heads + query_head) * p.mask_bytes;
  }

  [[nodiscard]] __device__ Bits mask_bits(int query_head, int first_column) const {
    const int q_len = block_.sequence.q_len;
    if constexpr (C::kRowsAreQueries) {
      const std::uint32_t* rows[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        rows[h] = row(h) < q_len ? reinterpret_cast<const std::uint32_t*>(mask_row(query_head, row(h))) : nullptr;
      }
      return bits_of_queries<C::kWords>(rows, first_column / 32,
                                        static_cast<int>(launch_.params.attention.mask_bytes / 4), lane() % 4);
    } else {
      std::uint32_t pairs = 0;
#pragma unroll
      for (int w = 0; w < C::kWords; ++w) {
        const int query = first_column + lane() + 32 * w;
        if (query >= q_len) continue;
        const auto* keys = reinterpret_cast<const std::uint16_t*>(mask_row(query_head, query));
        pairs |= static_cast<std::uint32_t>(__ldg(keys + first_row_ / 16)) << (16 * w);
      }
      return bits_of_keys<C::kWords>(pairs);
    }
  }

  __device__ void store_gradient(const float (&gradient)[C::kHeadDim / 8][4], void* rounded, float* sums,
                                 const float (&factor)[2]) const {
    const BackwardParams& b = launch_.params;
    const SequenceRange& s = block_.sequence;
    const Strides& strides = C::kRowsAreQueries ? b.query_rows : b.key_rows;
    const int head_dim = b.attention.head_dim;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (row(h) >= (C::kRowsAreQueries ? s.q_len : s.k_len)) continue;
      const std::int64_t first =
          ((C::kRowsAreQueries ? s.q_start : s.k_start) + row(h)) * strides.row + block_.head * strides.head;
#pragma unroll
      for (int n = 0; n < C::kHeadDim / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = 8 * n + 2 * (lane() % 4) + e;
          if (column >= head_dim) continue;
          const float value = gradient[n][2 * h + e] * factor[h];
          if (sums != nullptr) {
            sums[first + column] += value;
          } else if (rounded != nullptr) {
            const std::uint32_t both = pack<Element>(value, 0.0f);
            static_cast<std::uint16_t*>(rounded)[first + column] = static_cast<std::uint16_t>(both);
          }
        }
      }
    }
  }

  const BackwardLaunch& launch_;
  const BackwardBlock& block_;
  const BackwardTiles<C>& tiles_;
  int first_row_;
  std::uint32_t row_offset_, column_offset_, transposed_offset_;
  float2 stats_[2];  ///< {L, D} of the thread's rows, where rows are queries
  float score_gradient_[C::kScoreGradients ? C::kHeadDim / 8 : 1][4];
  float value_gradient_[C::kValueGradients ? C::kHeadDim / 8 : 1][4];
};

template <class C>
__global__ void __launch_bounds__(C::kThreads) backward_kernel(const __grid_constant__ BackwardLaunch launch) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const AttentionParams& p = launch.params.attention;
  const BackwardBlock block = backward_block<C>(launch);
  if (block.first_row >= (C::kRowsAreQueries ? block.sequence.q_len : block.sequence.k_len)) return;

  const BackwardTiles<C> tiles(launch, block, shared_address(shared));
  BackwardWarp<C> rows(launch, block, tiles);
  const int first_tile = block.columns.begin / C::kColumns;
  const int tiles_of_head = max(0, (block.columns.end + C::kColumns - 1) / C::kColumns - first_tile);
  const int group = p.heads / p.kv_heads;
  const int first_head = C::kRowsAreQueries ? block.head : block.head * group;
  const int count = tiles_of_head * (C::kRowsAreQueries ? 1 : group);
  const auto load = [&](int i) {
    if (i < count) {
      tiles.load_columns(i % C::kStages, first_head + i / tiles_of_head,
                         (first_tile + i % tiles_of_head) * C::kColumns);
    }
    commit_copies();
  };
  tiles.load_rows();
  for (int i = 0; i < C::kStages - 1; ++i) load(i);
  for (int i = 0; i < count; ++i) {
    load(i + C::kStages - 1);
    wait_for_copies<C::kStages - 1>();
    __syncthreads();
    rows.add_tile(i % C::kStages, first_head + i / tiles_of_head, (first_tile + i % tiles_of_head) * C::kColumns);
    __syncthreads();  // all warps are done with the stage
  }
  rows.store();
}

}  // namespace modelopt::kernels::cuda::sm80
