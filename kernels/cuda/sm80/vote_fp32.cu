// Skip-softmax, first pass, for fp32 inputs: the votes of vote_kernel.cuh, with the tiles and the scores of
// forward_fp32.cu. Lane l owns key l of a tile of 32.
//
//   shared memory   Q tile | K tile; at most 65 KiB
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/sm80/attended_keys.cuh"
#include "kernels/cuda/sm80/fp32_tile.cuh"
#include "kernels/cuda/sm80/launch_forward.h"
#include "kernels/cuda/sm80/vote_marks.cuh"

namespace modelopt::kernels::cuda::sm80 {
namespace {

constexpr std::uint32_t kWarp = 0xFFFFFFFFu;

constexpr int shared_bytes(int head_dim) {
  return (kFp32QueryRows * row_floats(head_dim) + kFp32TileKeys * key_row_floats(head_dim)) *
         static_cast<int>(sizeof(float));
}

/// The maxima of a warp's rows and their votes.
class WarpVotes {
 public:
  __device__ WarpVotes(const ForwardParams& params, const Fp32Rows& rows, int first_tile_key)
      : params_(params.attention),
        rows_(rows),
        marks_(params, rows.block, first_tile_key),
        recorder_(params, rows.block) {
#pragma unroll
    for (int r = 0; r < kFp32WarpRows; ++r) running_maximum_[r] = block_maximum_[r] = kNegativeInfinity<float>;
  }

  /// Takes in the scores x of the lane's key of the tile that begins at tile_key.
  __device__ void add_keys(float (&x)[kFp32WarpRows], int tile_key) {
    const int key = tile_key + lane();
#pragma unroll
    for (int r = 0; r < kFp32WarpRows; ++r) {
      const bool visible = visible_by_position(params_, position(r), key, rows_.block.sequence.k_len);
      if (!visible) x[r] = kNegativeInfinity<float>;
      if (params_.stats == nullptr) continue;
      const std::uint32_t seen = __ballot_sync(kWarp, x[r] != kNegativeInfinity<float>);
      if (lane() % 8 == 0) recorder_.record_visible(position(r), key, seen >> lane() & kAllKeys);
    }
    const int tile_end = tile_key + kFp32TileKeys;
    for (int begin = tile_key; begin < tile_end;) {
      const int end = min(marks_.block_end(), tile_end);
      if (key >= begin && key < end) raise_block_maxima(x);
      __syncwarp();
      if (end == marks_.block_end()) close_block();
      begin = end;
    }
  }

  /// After the last tile.
  __device__ void finish() {
    close_block();
#pragma unroll
    for (int r = 0; r < kFp32WarpRows; ++r) {
      const bool poisoned = __any_sync(kWarp, (poisoned_ >> r & 1) != 0) != 0;
      if (lane() == 0) marks_.leave_poison(position(r), poisoned);
    }
    recorder_.finish();
  }

 private:
  [[nodiscard]] static __device__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
  [[nodiscard]] __device__ int position(int r) const { return rows_.first_of_warp() + r + rows_.block.offset; }

  __device__ void raise_block_maxima(const float (&x)[kFp32WarpRows]) {
#pragma unroll
    for (int r = 0; r < kFp32WarpRows; ++r) {
      block_maximum_[r] = fmaxf(block_maximum_[r], x[r]);
      nan_in_block_ |= static_cast<std::uint32_t>(x[r] != x[r]) << r;
      poisoned_ |= static_cast<std::uint32_t>(x[r] != x[r] || x[r] == -kNegativeInfinity<float>) << r;
    }
  }

  /// The votes on the current block; the next one begins.
  __device__ void close_block() {
#pragma unroll
    for (int r = 0; r < kFp32WarpRows; ++r) {
      float largest = block_maximum_[r];
#pragma unroll
      for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(kWarp, largest, step));
      const bool sees = __any_sync(kWarp, (nan_in_block_ >> r & 1) != 0) || largest != kNegativeInfinity<float>;
      running_maximum_[r] = fmaxf(running_maximum_[r], largest);
      if (sees && lane() == 0) marks_.vote(position(r), largest, running_maximum_[r]);
      block_maximum_[r] = kNegativeInfinity<float>;
    }
    nan_in_block_ = 0;
    marks_.next_block();
  }

  const AttentionParams& params_;
  const Fp32Rows& rows_;
  VoteMarks marks_;
  Recorder recorder_;
  float running_maximum_[kFp32WarpRows];  ///< of the blocks before the current one
  float block_maximum_[kFp32WarpRows];    ///< of the lane's keys of the current block
  std::uint32_t nan_in_block_ = 0;        ///< bit r: the lane saw NaN in the current block
  std::uint32_t poisoned_ = 0;            ///< … NaN or +inf in any block
};

__global__ void __launch_bounds__(kFp32Threads) vote_fp32(const __grid_constant__ ForwardParams params) {
  extern __shared__ __align__(16) float shared_fp32[];
  const AttentionParams& p = params.attention;
  const Fp32Rows rows(params);
  const SequenceRange& s = rows.block.sequence;
  if (rows.empty() || !has_votes(params, rows.block.batch)) return;

  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int width = row_floats(p.head_dim);
  const int key_pitch = key_row_floats(p.head_dim);
  float* queries = shared_fp32;
  float* keys = queries + kFp32QueryRows * width;
  const float* k = head_of(p.k, p.k_strides, s.k_start, rows.block.head / (p.heads / p.kv_heads));
  copy_rows(queries, width, kFp32QueryRows, head_of(p.q, p.q_strides, s.q_start, rows.block.head), p.q_strides.row,
            rows.row_begin, s.q_len, p.head_dim);

  WarpVotes votes(params, rows, rows.first_tile_key);
  for (int tile_key = rows.first_tile_key; tile_key < rows.end_key; tile_key += kFp32TileKeys) {
    __syncthreads();  // all warps are done with the tile before
    copy_rows(keys, key_pitch, kFp32TileKeys, k, p.k_strides.row, tile_key, s.k_len, p.head_dim);
    __syncthreads();
    float x[kFp32WarpRows];
    score_rows(x, queries + warp * kFp32WarpRows * width, keys + lane * key_pitch, width);
    votes.add_keys(x, tile_key);
  }
  votes.finish();
}

}  // namespace

void launch_votes_fp32(const ForwardParams& params, cudaStream_t stream) {
  const AttentionParams& p = params.attention;
  constexpr int kMostBytes = shared_bytes(256);  // the same for all calls: other threads may launch too
  MODELOPT_CUDA_CHECK(cudaFuncSetAttribute(vote_fp32, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostBytes),
                      "asking for ", kMostBytes, " bytes of shared memory a block");
  const auto blocks = static_cast<unsigned>(params.query_tiles) * static_cast<unsigned>(p.heads) *
                      static_cast<unsigned>(p.batch);  // fits: run_sm80 checked it
  vote_fp32<<<blocks, kFp32Threads, shared_bytes(p.head_dim), stream>>>(params);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching vote_fp32 with ", blocks, " blocks, head_dim ", p.head_dim);
}

}  // namespace modelopt::kernels::cuda::sm80
