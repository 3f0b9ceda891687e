// Skip-softmax, first pass: every row votes on the key blocks that it sees (16-bit elements; fp32: vote_fp32.cu). The
// forward kernels then leave out the blocks that nobody wants.
//
// One block of 4 warps takes the rows of a forward tile through all keys that they see: scores as in the forward
// kernel, running maxima, and at the end of each key block the votes. A vote against skipping sets the byte of its pair
// of blocks; a pair whose byte stays 0 is skipped. So query blocks may be of any size and lie across tiles, and key
// blocks across tiles of keys. The pass costs the product with K and little else, a bit less than half of a dense
// forward: it pays when more than half of the blocks are skipped.
//
//   shared memory   Q tile | ring of kSlots tiles of K, as in the forward kernel
//   registers       scores in fp32 accumulators, two maxima for each of a thread's rows
//
// It also leaves in each row's log-sum-exp whether the row sees a NaN or +inf score (NaN) or not (0), and with
// statistics it counts what is visible: the forward kernels do not see skipped blocks.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/sm80/attended_keys.cuh"
#include "kernels/cuda/sm80/block_problem.cuh"
#include "kernels/cuda/sm80/key_value_stream.cuh"
#include "kernels/cuda/sm80/launch_forward.h"
#include "kernels/cuda/sm80/select_2of4.h"
#include "kernels/cuda/sm80/tile_way.h"
#include "kernels/cuda/sm80/vote_marks.cuh"
#include "kernels/cuda/sm80/warp_scores.cuh"

namespace modelopt::kernels::cuda::sm80 {

/// One warp's rows: scores, maxima and votes.
template <class C>
class WarpVotes : private WarpScores<C> {
 public:
  __device__ WarpVotes(const ForwardParams& params, const BlockProblem& block, std::uint32_t query_tile,
                       int first_tile_key)
      : WarpScores<C>(query_tile, block.tile_row),
        params_(params.attention),
        marks_(params, block, first_tile_key),
        recorder_(params, block),
        k_len_(block.sequence.k_len) {
#pragma unroll
    for (int b = 0; b < C::kRowBlocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        running_maximum_[b][half] = block_maximum_[b][half] = kNegativeInfinity<float>;
      }
    }
  }

  /// Takes in the tile that begins at `first_key`. Tiles come in ascending order, none is left out.
  __device__ void add_keys(std::uint32_t key_tile, int first_key) {
    const TileWay way = way_of_tile(params_, k_len_, false, first_row_, first_row_ + C::kWarpRows - 1, first_key,
                                    first_key + C::kKeys - 1);
    if (way != TileWay::kHidden) {
      compute_scores(key_tile);
      if (way == TileWay::kMasked || params_.stats != nullptr) hide_keys(first_key);
    }
    const int tile_end = first_key + C::kKeys;
    for (int begin = first_key; begin < tile_end;) {
      const int end = min(marks_.block_end(), tile_end);
      if (way != TileWay::kHidden) raise_block_maxima(first_key, begin, end);
      if (end == marks_.block_end()) close_block();
      begin = end;
    }
  }

  /// After the last tile.
  __device__ void finish() {
    close_block();
#pragma unroll
    for (int b = 0; b < C::kRowBlocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const bool poisoned = over_quad(poisoned_ >> row_bit(b, half) & 1);
        if (lane() % 4 == 0) marks_.leave_poison(row_position(b, half), poisoned);
      }
    }
    recorder_.finish();
  }

 private:
  using WarpScores<C>::lane;
  using WarpScores<C>::row_position;
  using WarpScores<C>::key_of_thread;
  using WarpScores<C>::compute_scores;
  using WarpScores<C>::get_scores;
  using WarpScores<C>::for_each_run;
  using WarpScores<C>::first_row_;
  using WarpScores<C>::scores_;

  [[nodiscard]] static __device__ constexpr int row_bit(int b, int half) { return 2 * b + half; }

  /// Whether the bit is set in some lane of the quad.
  [[nodiscard]] static __device__ bool over_quad(std::uint32_t bit) {
    bit |= __shfl_xor_sync(0xFFFFFFFFu, bit, 1);
    bit |= __shfl_xor_sync(0xFFFFFFFFu, bit, 2);
    return bit != 0;
  }

  /// Scores of keys that a row does not see become -inf.
  __device__ void hide_keys(int first_key) {
    for_each_run([&](int b, int half, int kb) {
      const int p = row_position(b, half), key = key_of_thread(first_key, kb);
      const std::uint32_t visible = visible_keys(params_, p, key, k_len_);
#pragma unroll
      for (int i = 0; i < kKeysPerThread; ++i) {
        if ((visible >> i & 1) == 0) scores_[b][4 * kb + i / 2][2 * half + i % 2] = kNegativeInfinity<float>;
      }
      if (params_.stats == nullptr) return;
      float x[kKeysPerThread];
      get_scores(x, b, half, kb);
      recorder_.record_visible(p, key, keys_above_negative_infinity(x));
    });
  }

  /// Takes keys [begin, end) of the tile, multiples of 8, into the maxima of the current block. Maxima ignore NaN,
  /// which is rare: it is looked for in maxima that keep it.
  __device__ void raise_block_maxima(int first_key, int begin, int end) {
    float largest[C::kRowBlocks][2];
    bool some_nan = false;
    find_maxima(largest, first_key, begin, end, [](float a, float b) { return larger_or_nan(a, b); });
#pragma unroll
    for (int b = 0; b < C::kRowBlocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const bool nan = largest[b][half] != largest[b][half];
        const bool poison = nan || largest[b][half] == -kNegativeInfinity<float>;
        poisoned_ |= static_cast<std::uint32_t>(poison) << row_bit(b, half);
        nan_in_block_ |= static_cast<std::uint32_t>(nan) << row_bit(b, half);
        some_nan = some_nan || nan;
      }
    }
    if (__any_sync(0xFFFFFFFFu, some_nan)) {
      find_maxima(largest, first_key, begin, end, [](float a, float b) { return fmaxf(a, b); });
    }
#pragma unroll
    for (int b = 0; b < C::kRowBlocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        block_maximum_[b][half] = fmaxf(block_maximum_[b][half], largest[b][half]);
      }
    }
  }

  template <typename Larger>
  __device__ void find_maxima(float (&largest)[C::kRowBlocks][2], int first_key, int begin, int end, Larger larger) {
#pragma unroll
    for (int b = 0; b < C::kRowBlocks; ++b) largest[b][0] = largest[b][1] = kNegativeInfinity<float>;
    for_each_run([&](int b, int half, int kb) {
      const int key = key_of_thread(first_key, kb);
      if (key < begin || key >= end) return;
      float x[kKeysPerThread];
      get_scores(x, b, half, kb);
#pragma unroll
      for (int i = 0; i < kKeysPerThread; ++i) largest[b][half] = larger(largest[b][half], x[i]);
    });
  }

  /// The votes on the current block; the next one begins.
  __device__ void close_block() {
#pragma unroll
    for (int b = 0; b < C::kRowBlocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float largest = block_maximum_[b][half];
        largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, 2));
        const bool sees = over_quad(nan_in_block_ >> row_bit(b, half) & 1) || largest != kNegativeInfinity<float>;
        running_maximum_[b][half] = fmaxf(running_maximum_[b][half], largest);
        if (sees && lane() % 4 == 0) marks_.vote(row_position(b, half), largest, running_maximum_[b][half]);
        block_maximum_[b][half] = kNegativeInfinity<float>;
      }
    }
    nan_in_block_ = 0;
    marks_.next_block();
  }

  const AttentionParams& params_;
  VoteMarks marks_;
  Recorder recorder_;
  int k_len_;
  float running_maximum_[C::kRowBlocks][2];  ///< of the blocks before the current one; the same in a quad
  float block_maximum_[C::kRowBlocks][2];    ///< of this thread's keys of the current block
  std::uint32_t nan_in_block_ = 0;           ///< bit row_bit(b, half): the thread saw NaN in the current block
  std::uint32_t poisoned_ = 0;               ///< … NaN or +inf in any block
};

template <class C>
__global__ void __launch_bounds__(C::kThreads, C::kBlocksPerSm)
    vote_kernel(const __grid_constant__ ForwardParams params) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const AttentionParams& p = params.attention;
  const BlockProblem block = block_problem<C::kRows>(params);
  const SequenceRange& s = block.sequence;
  const int row_begin = max(block.tile_row - block.offset, 0);
  const int row_end = min(block.tile_row - block.offset + C::kRows, s.q_len);
  if (row_begin >= row_end || !has_votes(params, block.batch)) return;

  const int end_key = p.is_causal ? min(row_end + block.offset, s.k_len) : s.k_len;
  const int first_key = p.sliding_window > 0 ? max(row_begin + block.offset - p.sliding_window + 1, 0) : 0;
  const int first_tile_key = first_key / C::kKeys * C::kKeys;
  const std::uint32_t query_tile = shared_address(shared);
  WarpVotes<C> votes(params, block, query_tile, first_tile_key);
  if (first_key < end_key) {
    using QueryCopier = RowCopier<C::kRows, C::kHeadDim, C::kThreads, C::kGeneral, true, &query_swizzle>;
    const auto* q =
        static_cast<const std::uint16_t*>(p.q) + s.q_start * p.q_strides.row + block.head * p.q_strides.head;
    const int first_query = block.tile_row - block.offset;
    QueryCopier(q, p.q_strides.row, first_query, s.q_len, p.head_dim, params.whole_chunks)
        .copy_tile(query_tile, first_query);
    const int kv_head = block.head / (p.heads / p.kv_heads);
    const auto* k = static_cast<const std::uint16_t*>(p.k) + s.k_start * p.k_strides.row + kv_head * p.k_strides.head;
    typename TileRing<C>::Copier keys(k, p.k_strides.row, first_tile_key, s.k_len, p.head_dim, params.whole_chunks);
    TileRing<C> ring(query_tile + C::kRows * C::kPitch);
    constexpr int kAhead = C::kSlots - 1;
#pragma unroll
    for (int t = 0; t < kAhead; ++t) {
      const int tile = first_tile_key + t * C::kKeys;
      ring.start(t, keys, tile, tile < end_key);
    }
    for (int key = first_tile_key; key < end_key; key += C::kKeys) {
      const int ahead = key + kAhead * C::kKeys;
      votes.add_keys(ring.next(keys, ahead, ahead < end_key), key);
    }
  }
  votes.finish();
}

template <typename Element, int kHeadDim>
void launch_votes(const ForwardParams& params, cudaStream_t stream) {
  using Config = ForwardConfig<Element, kHeadDim, /*kSparse=*/false, /*kGeneral=*/true>;
  const AttentionParams& p = params.attention;
  MODELOPT_CUDA_CHECK(
      cudaFuncSetAttribute(vote_kernel<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize, Config::kSharedBytes),
      "asking for ", Config::kSharedBytes, " bytes of shared memory a block");
  const auto blocks = static_cast<unsigned>(params.query_tiles) * static_cast<unsigned>(p.heads) *
                      static_cast<unsigned>(p.batch);  // fits: run_sm80 checked it
  vote_kernel<Config><<<blocks, Config::kThreads, Config::kSharedBytes, stream>>>(params);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching vote_kernel with ", blocks, " blocks, head_dim ", p.head_dim);
}

}  // namespace modelopt::kernels::cuda::sm80
