// Fused attention forward for 16-bit elements with mma.sync, mma.sp.sync and cp.async (any GPU from sm_80 on).
//
// One block of 4 warps: kRows consecutive query rows of one head, one loop over tiles of kKeys keys. Query tiles are
// aligned to absolute positions p and key tiles to the sequence's first key: which way a tile is taken is decided per
// warp from positions alone, so that a row's bits depend on nothing but its own sequence, and a chunk of a prefill
// gives the bits of the whole.
//
//   shared memory   Q tile | ring of kSlots tiles: K0 V0 K1 V1 … (key_value_stream.cuh: one barrier per tile)
//   registers       O and scores in fp32 accumulators; P is packed in place; Q fragments are read again for every tile
//
//   head_dim   rows x keys  rows/warp  slots  shared memory  blocks/SM   registers of O + scores per thread
//   <= 64      128 x 64     32         3      40 KiB         3 or 2      64 + 64
//   <= 128     128 x 64     32         3      80 KiB         2           128 + 64
//   <= 256      64 x 64     16         2      96 KiB         2 (sm_90)   128 + 32
//
// How a warp takes each tile: tile_way.h.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_params.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/sm80/attended_blocks.cuh"
#include "kernels/cuda/sm80/attended_keys.cuh"
#include "kernels/cuda/sm80/block_problem.cuh"
#include "kernels/cuda/sm80/forward_config.h"
#include "kernels/cuda/sm80/forward_params.h"
#include "kernels/cuda/sm80/key_order.h"
#include "kernels/cuda/sm80/key_range.h"
#include "kernels/cuda/sm80/key_value_stream.cuh"
#include "kernels/cuda/sm80/mma_sync.cuh"
#include "kernels/cuda/sm80/row_softmax.cuh"
#include "kernels/cuda/sm80/select_2of4.h"
#include "kernels/cuda/sm80/tile_way.h"
#include "kernels/cuda/sm80/warp_scores.cuh"

namespace modelopt::kernels::cuda::sm80 {

/// One warp's rows: scores, softmax and output.
template <class C>
class WarpRows : private WarpScores<C> {
 public:
  using Element = typename C::Element;

  __device__ WarpRows(const ForwardParams& params, const BlockProblem& block, const AttendedBlocks& blocks,
                      std::uint32_t query_tile)
      : WarpScores<C>(query_tile, block.tile_row),
        params_(params.attention),
        blocks_(blocks),
        recorder_(params, block),
        softmax_(params.scale_log2, params.slack),
        sparse_nm_((C::kSparse || C::kGeneral) && block.sequence.sparse_nm) {
    const bool has_rows = first_row_ + C::kWarpRows > block.offset && first_row_ < block.sequence.k_len;
    k_len_ = has_rows ? block.sequence.k_len : 0;
    // Operand B of 16 keys x 8 elements, transposed: 8-column blocks (h, h + 1) in chunks (n, n + 1)
    value_offset_ = offset_in_tile(key_of_column(lane() / 8 % 2, lane() % 8), lane() / 16);
    // The same of 32 keys, in the order of mma.sp
    sparse_value_offset_ = offset_in_tile(key_of_sparse_k(lane()), 0);
#pragma unroll
    for (int b = 0; b < C::kRowBlocks; ++b) {
#pragma unroll
      for (int n = 0; n < C::kOutputColumns; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) output_[b][n][e] = 0.0f;
      }
    }
  }

  /// Scores and weights of the tile that begins at `first_key`.
  __device__ void multiply_keys(std::uint32_t key_tile, int first_key) {
    way_ = way_of_tile(params_, k_len_, sparse_nm_, first_row_, first_row_ + C::kWarpRows - 1, first_key,
                       first_key + C::kKeys - 1);
    if (way_ == TileWay::kHidden) return;
    if constexpr (C::kGeneral) {
      some_skipped_ = false;
      if (blocks_.active()) {
        const auto share =
            blocks_.share(first_row_, first_row_ + C::kWarpRows - 1, first_key, first_key + C::kKeys - 1);
        some_skipped_ = share != AttendedBlocks::Share::kAll;
        if (share == AttendedBlocks::Share::kNone) way_ = TileWay::kHidden;
        if (way_ == TileWay::kHidden) return;
      }
    }
    compute_scores(key_tile);
    if constexpr (C::kSparse) {
      if (way_ == TileWay::kSelected) {
        if constexpr (C::kGeneral) {
          if (recorder_.active()) record_tile(first_key);
        }
        if (params_.sparsity_n == 1) {
          select_pairs<1>(first_key);
        } else {
          select_pairs<2>(first_key);
        }
        return;
      }
    }
    compute_weights(first_key);
  }

  /// Adds weights times values to the output.
  __device__ void multiply_values(std::uint32_t value_tile) {
    if (way_ == TileWay::kHidden) return;
    if constexpr (C::kSparse) {
      if (way_ == TileWay::kSelected) return multiply_values_sparse(value_tile);
    }
    multiply_values_dense(value_tile);
  }

  /// `block` is not kept in registers while tiles are processed.
  __device__ void write_output(const BlockProblem& block) {
    softmax_.finish();
#pragma unroll
    for (int b = 0; b < C::kRowBlocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if constexpr (C::kGeneral) {
          if (blocks_.active()) poison_row(block, b, half);
        }
        write_row(block, b, half);
      }
    }
    if constexpr (C::kGeneral) recorder_.finish();
  }

  [[nodiscard]] __device__ Recorder& recorder() { return recorder_; }

 private:
  using WarpScores<C>::lane;
  using WarpScores<C>::offset_in_tile;
  using WarpScores<C>::row_position;
  using WarpScores<C>::key_of_thread;
  using WarpScores<C>::advance_chunks;
  using WarpScores<C>::compute_scores;
  using WarpScores<C>::get_scores;
  using WarpScores<C>::for_each_run;
  using WarpScores<C>::first_row_;
  using WarpScores<C>::scores_;

  /// Whether the row at position p leaves out the eight keys from `key` on by skip-softmax.
  [[nodiscard]] __device__ bool skips(int p, int key) const {
    if constexpr (C::kGeneral) return some_skipped_ && !blocks_.attends(p, key);
    return false;
  }

  /// What the row at position p sees and attends to of the eight keys from `key` on, of which none is skipped.
  __device__ void record(int p, int key, std::uint32_t visible, std::uint32_t attended) {
    if (!blocks_.active()) recorder_.record_visible(p, key, visible);
    recorder_.record_attended(p, key, visible & attended);
  }

  /// Records a tile in which every key is visible and N:M alone decides.
  __device__ void record_tile(int first_key) {
    for_each_run([&](int b, int half, int kb) {
      float x[kKeysPerThread];
      get_scores(x, b, half, kb);
      const int p = row_position(b, half), key = key_of_thread(first_key, kb);
      if (skips(p, key)) return;
      record(p, key, keys_above_negative_infinity(x), kept_keys(x, kAllKeys, params_.sparsity_n, 4));
    });
  }

  /// Hides the keys that a row does not attend to (their scores become -inf), and gives the maxima of the visible ones.
  __device__ void hide_keys(int first_key, float (&maximum)[C::kRowBlocks][2]) {
    const bool by_position = way_ == TileWay::kMasked;
    for_each_run([&](int b, int half, int kb) {
      float x[kKeysPerThread];
      get_scores(x, b, half, kb);
      const int p = row_position(b, half);
      const int key = key_of_thread(first_key, kb);
      std::uint32_t visible = by_position ? visible_keys(params_, p, key, k_len_) : kAllKeys;
      if (skips(p, key)) visible = 0;
      std::uint32_t attended = visible;
      if constexpr (C::kSparse || C::kGeneral) {
        if (sparse_nm_) {
          const std::uint32_t kept = kept_keys(x, visible, params_.sparsity_n, C::kSparse ? 4 : params_.sparsity_m);
          attended = by_position ? visible & (kept | dense_keys(params_, p, key)) : visible & kept;
        }
      }
      if constexpr (C::kGeneral) {
        if (recorder_.active()) record(p, key, visible & keys_above_negative_infinity(x), attended);
      }
#pragma unroll
      for (int i = 0; i < kKeysPerThread; ++i) {
        const bool sees = (visible >> i & 1) != 0;
        maximum[b][half] = larger_or_nan(maximum[b][half], sees ? x[i] : kNegativeInfinity<float>);
        if ((attended >> i & 1) == 0) scores_[b][4 * kb + i / 2][2 * half + i % 2] = kNegativeInfinity<float>;
      }
    });
  }

  /// Scores become weights: every key of the tile, 0 for those that are not attended.
  __device__ void compute_weights(int first_key) {
    float maximum[C::kRowBlocks][2];
#pragma unroll
    for (int b = 0; b < C::kRowBlocks; ++b) maximum[b][0] = maximum[b][1] = kNegativeInfinity<float>;
    bool hide = way_ != TileWay::kWhole;
    if constexpr (C::kGeneral) hide = hide || recorder_.active() || some_skipped_;
    if (hide) {
      hide_keys(first_key, maximum);
    } else {
#pragma unroll
      for (int b = 0; b < C::kRowBlocks; ++b) {
#pragma unroll
        for (int n = 0; n < C::kScoreColumns; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) maximum[b][e / 2] = larger_or_nan(maximum[b][e / 2], scores_[b][n][e]);
        }
      }
    }
    softmax_.raise_reference(maximum, output_);
    if (softmax_.any_row_is_far()) {
#pragma unroll
      for (int b = 0; b < C::kRowBlocks; ++b) {
#pragma unroll
        for (int n = 0; n < C::kScoreColumns; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) scores_[b][n][e] = softmax_.relative_if_far(scores_[b][n][e], b, e / 2);
        }
      }
      softmax_.clear_far_exponents();
    }
#pragma unroll
    for (int b = 0; b < C::kRowBlocks; ++b) {
#pragma unroll
      for (int n = 0; n < C::kScoreColumns; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          scores_[b][n][e] = softmax_.weight(scores_[b][n][e], b, e / 2);
          softmax_.sum[b][e / 2] += scores_[b][n][e];
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          weights_[b][n / 2][2 * (n % 2) + half] = pack<Element>(scores_[b][n][2 * half], scores_[b][n][2 * half + 1]);
        }
      }
    }
  }

  /// Scores become the weights of two of every four keys, in the layout of operand A of mma.sp, and metadata. Each
  /// thread selects its own groups; the two groups of 32-key block kb are groups c and 4 + c of the operand, and their
  /// metadata fields 2 kb and 2 kb + 1. After the transposition lanes 2 kb and 2 kb + 1 hold what selector kb reads.
  template <int kN>
  __device__ void select_pairs(int first_key) {
    static_assert(C::kKeyBlocks == 2, "one metadata word holds the selectors 0 and 1");
    float maximum[C::kRowBlocks][2];
    KeptPair kept[C::kRowBlocks][2][C::kKeyBlocks][2];
#pragma unroll
    for (int b = 0; b < C::kRowBlocks; ++b) {
      maximum[b][0] = maximum[b][1] = kNegativeInfinity<float>;
      metadata_[b] = kMetadataBase;
    }
    for_each_run([&](int b, int half, int kb) {
      float x[kKeysPerThread];
      get_scores(x, b, half, kb);
#pragma unroll
      for (int g = 0; g < 2; ++g) {
        KeptPair& pair = kept[b][half][kb][g];
        const int shift = 16 * half + 8 * kb + 4 * g;
        pair = kN == 1 ? keep_1_of_4(x[4 * g], x[4 * g + 1], x[4 * g + 2], x[4 * g + 3], shift, metadata_[b])
                       : keep_2_of_4(x[4 * g], x[4 * g + 1], x[4 * g + 2], x[4 * g + 3], shift, metadata_[b]);
        if (skips(row_position(b, half), key_of_thread(first_key, kb))) {
          pair = {kNegativeInfinity<float>, kNegativeInfinity<float>};
        }
        maximum[b][half] = larger_or_nan(maximum[b][half], larger_or_nan(pair.first, pair.second));
      }
    });
    softmax_.raise_reference(maximum, output_);
    if (softmax_.any_row_is_far()) {
      for_each_run([&](int b, int half, int kb) {
#pragma unroll
        for (int g = 0; g < 2; ++g) {
          KeptPair& pair = kept[b][half][kb][g];
          pair = {softmax_.relative_if_far(pair.first, b, half), softmax_.relative_if_far(pair.second, b, half)};
        }
      });
      softmax_.clear_far_exponents();
    }
    for_each_run([&](int b, int half, int kb) {
#pragma unroll
      for (int g = 0; g < 2; ++g) {
        const KeptPair& pair = kept[b][half][kb][g];
        const float first = softmax_.weight(pair.first, b, half);
        const float second = softmax_.weight(pair.second, b, half);
        softmax_.sum[b][half] += first;
        softmax_.sum[b][half] += second;
        weights_[b][kb][2 * g + half] = pack<Element>(first, second);
      }
    });
#pragma unroll
    for (int b = 0; b < C::kRowBlocks; ++b) metadata_[b] = transpose_fields_over_quad(metadata_[b]);
  }

  __device__ void multiply_values_dense(std::uint32_t value_tile) {
    const std::uint32_t values = value_tile + value_offset_;
#pragma unroll
    for (int step = 0; step < C::kKeys / 16; ++step) {
#pragma unroll
      for (int n = 0; n < C::kOutputColumns; n += 2) {
        std::uint32_t value[4];
        load_matrices_transposed(value, advance_chunks(values, n) + (step / 2 * kKeyBlock + step % 2 * 4) * C::kPitch);
#pragma unroll
        for (int b = 0; b < C::kRowBlocks; ++b) {
          mma_16x8x16<Element>(output_[b][n], weights_[b][step], value[0], value[1]);
          mma_16x8x16<Element>(output_[b][n + 1], weights_[b][step], value[2], value[3]);
        }
      }
    }
  }

  __device__ void multiply_values_sparse(std::uint32_t value_tile) {
    const std::uint32_t values = value_tile + sparse_value_offset_;
#pragma unroll
    for (int n = 0; n < C::kOutputColumns; ++n) {
      std::uint32_t value[2][4];
      load_matrices_transposed(value[0], advance_chunks(values, n));
      load_matrices_transposed(value[1], advance_chunks(values, n) + kKeyBlock * C::kPitch);
#pragma unroll
      for (int b = 0; b < C::kRowBlocks; ++b) {
        mma_sp_16x8x32<Element, 0>(output_[b][n], weights_[b][0], value[0], metadata_[b]);
        mma_sp_16x8x32<Element, 1>(output_[b][n], weights_[b][1], value[1], metadata_[b]);
      }
    }
  }

  /// The row's index in [total_q, heads], or -1 if it does not exist.
  [[nodiscard]] __device__ std::int64_t row_index(const BlockProblem& block, int b, int half) const {
    const int i = row_position(b, half) - block.offset;
    if (i < 0 || i >= block.sequence.q_len) return -1;
    return static_cast<std::int64_t>(block.sequence.q_start + i) * params_.heads + block.head;
  }

  /// A row that sees a NaN or +inf score, even in a skipped block, becomes NaN: the vote kernel left NaN in its
  /// log-sum-exp.
  __device__ void poison_row(const BlockProblem& block, int b, int half) {
    const std::int64_t row = row_index(block, b, half);
    const float left = row < 0 ? 0.0f : params_.logsumexp[row];
    __syncwarp();  // the lanes of a quad read before one of them writes
    if (left != left) softmax_.sum[b][half] = left;
  }

  __device__ void write_row(const BlockProblem& block, int b, int half) {
    const std::int64_t row = row_index(block, b, half);
    if (row < 0) return;
    if (lane() % 4 == 0) params_.logsumexp[row] = softmax_.logsumexp(b, half, params_.scale);
    const float factor = softmax_.inverse_sum(b, half);
    auto* output = static_cast<std::uint16_t*>(params_.output) + row * params_.head_dim;
    const bool pairs = params_.head_dim % 2 == 0;  // then every row begins at a multiple of 4 bytes
#pragma unroll
    for (int n = 0; n < C::kOutputColumns; ++n) {
      const int column = 8 * n + 2 * (lane() % 4);
      const std::uint32_t both = pack<Element>(output_[b][n][2 * half] * factor, output_[b][n][2 * half + 1] * factor);
      if (pairs) {
        if (column < params_.head_dim) *reinterpret_cast<std::uint32_t*>(output + column) = both;
      } else {
        if (column < params_.head_dim) output[column] = static_cast<std::uint16_t>(both);
        if (column + 1 < params_.head_dim) output[column + 1] = static_cast<std::uint16_t>(both >> 16);
      }
    }
  }

  const AttentionParams& params_;
  const AttendedBlocks& blocks_;
  Recorder recorder_;
  RowSoftmax<C::kRowBlocks> softmax_;
  int k_len_;  ///< 0 if no row of the warp is a row of the sequence: every tile is hidden then
  bool sparse_nm_;
  bool some_skipped_ = false;  ///< some row of the warp skips a block of the current tile
  TileWay way_ = TileWay::kHidden;
  std::uint32_t value_offset_, sparse_value_offset_;
  float output_[C::kRowBlocks][C::kOutputColumns][4];
  std::uint32_t weights_[C::kRowBlocks][C::kScoreColumns / 2][4];  ///< operand A of the product with V
  std::uint32_t metadata_[C::kRowBlocks];
};

template <class C>
__global__ void __launch_bounds__(C::kThreads, C::kBlocksPerSm)
    forward_kernel(const __grid_constant__ ForwardParams params) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const AttentionParams& p = params.attention;
  const BlockProblem block = block_problem<C::kRows>(params);
  const SequenceRange& s = block.sequence;
  // Rows of this tile that exist, as query rows and as positions.
  const int row_begin = max(block.tile_row - block.offset, 0);
  const int row_end = min(block.tile_row - block.offset + C::kRows, s.q_len);
  if (row_begin >= row_end) return;
  const int first_position = row_begin + block.offset;
  const int last_position = row_end - 1 + block.offset;

  const int end_key = p.is_causal ? min(last_position + 1, s.k_len) : s.k_len;
  const int first_key = p.sliding_window > 0 ? max(first_position - p.sliding_window + 1, 0) : 0;
  const int first_tile_key = first_key / C::kKeys * C::kKeys;

  const AttendedBlocks blocks(params, block);  // used with kGeneral only
  const std::uint32_t query_tile = shared_address(shared);
  WarpRows<C> rows(params, block, blocks, query_tile);
  if constexpr (C::kGeneral) {
    rows.recorder().clear_mask(row_begin, row_end);
    __syncthreads();
  }
  AttendedTiles<C::kKeys> tiles(blocks, first_position, last_position, end_key);
  const auto tile_from = [&](int key) { return C::kGeneral ? tiles.next(key) : key; };
  int key = tile_from(first_key / C::kKeys * C::kKeys);
  if (first_key < end_key && key < end_key) {
    using QueryCopier = RowCopier<C::kRows, C::kHeadDim, C::kThreads, C::kGeneral, true, &query_swizzle>;
    const auto* q =
        static_cast<const std::uint16_t*>(p.q) + s.q_start * p.q_strides.row + block.head * p.q_strides.head;
    const int first_query = block.tile_row - block.offset;
    QueryCopier(q, p.q_strides.row, first_query, s.q_len, p.head_dim, params.whole_chunks)
        .copy_tile(query_tile, first_query);
    using Copier = typename KeyValueStream<C>::Copier;
    const int kv_head = block.head / (p.heads / p.kv_heads);
    const auto* k = static_cast<const std::uint16_t*>(p.k) + s.k_start * p.k_strides.row + kv_head * p.k_strides.head;
    const auto* v = static_cast<const std::uint16_t*>(p.v) + s.k_start * p.v_strides.row + kv_head * p.v_strides.head;
    KeyValueStream<C> stream(query_tile + C::kRows * C::kPitch,
                             Copier(k, p.k_strides.row, key, s.k_len, p.head_dim, params.whole_chunks),
                             Copier(v, p.v_strides.row, key, s.k_len, p.head_dim, params.whole_chunks));
    stream.start(key);
    while (key < end_key) {
      const int next_key = tile_from(key + C::kKeys);
      const bool last = next_key >= end_key;
      rows.multiply_keys(stream.next_keys(key, next_key, last), key);
      rows.multiply_values(stream.next_values(key, next_key, last));
      key = next_key;
    }
  }
  rows.write_output(block_problem<C::kRows>(params));
}

}  // namespace modelopt::kernels::cuda::sm80
