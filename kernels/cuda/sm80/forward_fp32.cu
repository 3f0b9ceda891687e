// Attention forward for fp32 inputs on the FMA units: exact first. No chain of roundings is long: scores are summed in
// blocks (fp32_tile.cuh), weighted sums over the keys of a tile from 0, in four chains, and then over the tiles; the
// lanes' sums of weights are added up in fp64. Where one key dominates a row, every addition after it rounds at its
// size.
//
// One block of 4 warps: kFp32QueryRows consecutive query rows of one head, 8 for each warp; one loop over tiles of 32
// keys, counted from the sequence's first key. Lane l owns key l of the tile in the scores, and columns l, l + 32, … in
// the output. Whether a warp's rows attend to a key is uniform over the warp, and values that a row does not attend to
// are not multiplied.
//
//   shared memory   Q tile | K tile (padded: an odd number of 16-byte pieces a row) | V tile; at most 97 KiB
//   registers       8 rows x (kColumns outputs + score, maximum, sum, factor, attended keys) + a tile's partial sums
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/sm80/attended_blocks.cuh"
#include "kernels/cuda/sm80/attended_keys.cuh"
#include "kernels/cuda/sm80/fp32_tile.cuh"
#include "kernels/cuda/sm80/launch_forward.h"
#include "kernels/cuda/sm80/select_2of4.h"

namespace modelopt::kernels::cuda::sm80 {
namespace {

constexpr std::uint32_t kWarp = 0xFFFFFFFFu;

constexpr int shared_bytes(int head_dim) {
  return ((kFp32QueryRows + kFp32TileKeys) * row_floats(head_dim) + kFp32TileKeys * key_row_floats(head_dim)) *
         static_cast<int>(sizeof(float));
}

/// The lane's key: whether the row keeps it. All lanes call it.
template <int M>
__device__ bool lane_key_kept(float x, std::uint32_t visible, int n) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first = lane / M * M;
  float group[M];
#pragma unroll
  for (int i = 0; i < M; ++i) group[i] = __shfl_sync(kWarp, x, first + i);
  return (keep_n_of_m<M>(group, visible >> first & ((1u << M) - 1), n) >> (lane - first) & 1) != 0;
}

/// What scale * log2(e) is beyond its rounding to fp32. Left out, all weights of a row would err the same way, and
/// their sum with them.
__device__ float rest_of_scale(float scale, float scale_log2) {
  constexpr float kLog2E = 1.44269504f, kLog2ERest = 1.92596303e-8f;
  return __fmaf_rn(scale, kLog2E, -scale_log2) + scale * kLog2ERest;
}

/// Without the rest where it is not finite: infinite differences keep their sign.
__device__ float scaled(float difference, float scale_log2, float rest) {
  return isinf(difference) ? difference : __fmaf_rn(difference, scale_log2, __fmul_rn(difference, rest));
}

/// Rescales the outputs of a warp's rows and adds a tile's weighted values: the lane's weights are those of its key,
/// its columns lane, lane + 32, …. The sums of keys that are equal modulo kChains are chains of their own, from 0. Few
/// rows and at most four columns at a time: more partial sums would not fit into registers.
template <int kColumns>
__device__ void add_values(float (&output)[kFp32WarpRows][kColumns], const float (&factor)[kFp32WarpRows],
                           const float (&weights)[kFp32WarpRows], const std::uint32_t (&attended)[kFp32WarpRows],
                           const float* values, int head_dim) {
  constexpr int kChains = 4, kRows = 4, kGroup = kColumns < 4 ? kColumns : 4;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int width = row_floats(head_dim);
#pragma unroll
  for (int row = 0; row < kFp32WarpRows; row += kRows) {
#pragma unroll
    for (int column = 0; column < kColumns; column += kGroup) {
      float part[kChains][kRows][kGroup] = {};
      for (int key = 0; key < kFp32TileKeys; key += kChains) {
#pragma unroll
        for (int chain = 0; chain < kChains; ++chain) {
          float value[kGroup];
#pragma unroll
          for (int c = 0; c < kGroup; ++c) {
            const int d = lane + 32 * (column + c);
            value[c] = d < head_dim ? values[(key + chain) * width + d] : 0.0f;
          }
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            const float weight = __shfl_sync(kWarp, weights[row + r], key + chain);
            if ((attended[row + r] >> (key + chain) & 1) == 0) continue;
#pragma unroll
            for (int c = 0; c < kGroup; ++c) part[chain][r][c] = __fmaf_rn(weight, value[c], part[chain][r][c]);
          }
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int c = 0; c < kGroup; ++c) {
          float& sum = output[row + r][column + c];
          const float tile = (part[0][r][c] + part[1][r][c]) + (part[2][r][c] + part[3][r][c]);
          sum = __fmaf_rn(sum, factor[row + r], tile);
        }
      }
    }
  }
}

/// kColumns * 32 >= head_dim.
template <int kColumns>
__global__ void __launch_bounds__(kFp32Threads, kColumns > 4 ? 1 : 2)
    forward_fp32(const __grid_constant__ ForwardParams params) {
  extern __shared__ __align__(16) float shared_fp32[];
  const AttentionParams& p = params.attention;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const Fp32Rows rows(params);
  const BlockProblem& block = rows.block;
  const SequenceRange& s = block.sequence;
  if (rows.empty()) return;

  const int head = block.head, offset = block.offset;
  const int width = row_floats(p.head_dim);
  const int key_pitch = key_row_floats(p.head_dim);
  float* queries = shared_fp32;
  float* keys = queries + kFp32QueryRows * width;
  float* values = keys + kFp32TileKeys * key_pitch;
  const int kv_head = head / (p.heads / p.kv_heads);
  const float* k = head_of(p.k, p.k_strides, s.k_start, kv_head);
  const float* v = head_of(p.v, p.v_strides, s.k_start, kv_head);

  Recorder recorder(params, block);
  recorder.clear_mask(rows.row_begin, rows.row_end);
  copy_rows(queries, width, kFp32QueryRows, head_of(p.q, p.q_strides, s.q_start, head), p.q_strides.row, rows.row_begin,
            s.q_len, p.head_dim);

  const int first_row = rows.first_of_warp();
  const float scale_log2 = params.scale_log2;
  const float scale_log2_rest = rest_of_scale(p.scale, scale_log2);
  float maximum[kFp32WarpRows], sum[kFp32WarpRows], output[kFp32WarpRows][kColumns];
#pragma unroll
  for (int r = 0; r < kFp32WarpRows; ++r) {
    maximum[r] = kNegativeInfinity<float>;
    sum[r] = 0.0f;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) output[r][c] = 0.0f;
  }

  const AttendedBlocks blocks(params, block);
  AttendedTiles<kFp32TileKeys> tiles(blocks, rows.row_begin + offset, rows.row_end - 1 + offset, rows.end_key);
  for (int tile_key = tiles.next(rows.first_tile_key); tile_key < rows.end_key;
       tile_key = tiles.next(tile_key + kFp32TileKeys)) {
    __syncthreads();  // all warps are done with the tiles before
    copy_rows(keys, key_pitch, kFp32TileKeys, k, p.k_strides.row, tile_key, s.k_len, p.head_dim);
    copy_rows(values, width, kFp32TileKeys, v, p.v_strides.row, tile_key, s.k_len, p.head_dim);
    __syncthreads();

    float x[kFp32WarpRows];
    score_rows(x, queries + warp * kFp32WarpRows * width, keys + lane * key_pitch, width);

    std::uint32_t attended[kFp32WarpRows];  // by the row, of the tile's 32 keys
    float factor[kFp32WarpRows];            // what the sums before the tile are worth now
#pragma unroll
    for (int r = 0; r < kFp32WarpRows; ++r) {
      const int i = first_row + r;
      const int position = i + offset;
      const int key = tile_key + lane;
      const bool sees = visible_by_position(p, position, key, s.k_len) && x[r] != kNegativeInfinity<float> &&
                        (!blocks.active() || blocks.attends(position, key / 8 * 8));
      const std::uint32_t visible = __ballot_sync(kWarp, sees);
      bool attends = sees;
      if (s.sparse_nm) {
        const bool kept = p.sparsity_m == 8 ? lane_key_kept<8>(x[r], visible, p.sparsity_n)
                                            : lane_key_kept<4>(x[r], visible, p.sparsity_n);
        attends = sees && (kept || dense_by_position(p, position, key));
      }
      attended[r] = __ballot_sync(kWarp, attends);
      if (recorder.active() && lane % 8 == 0) {
        if (!blocks.active()) recorder.record_visible(position, key, visible >> lane & kAllKeys);
        recorder.record_attended(position, key, attended[r] >> lane & kAllKeys);
      }

      float raised = larger_or_nan(maximum[r], sees ? x[r] : kNegativeInfinity<float>);
#pragma unroll
      for (int step = 16; step > 0; step /= 2) raised = larger_or_nan(raised, __shfl_xor_sync(kWarp, raised, step));
      // The difference is taken before scaling: exact for scores of any size. While the maximum is -inf all is 0.
      const float reference = raised == kNegativeInfinity<float> ? 0.0f : raised;
      factor[r] = exp2f(scaled(__fsub_rn(maximum[r], reference), scale_log2, scale_log2_rest));  // 1 if nothing changed
      x[r] =
          exp2f(scaled(__fsub_rn(attends ? x[r] : kNegativeInfinity<float>, reference), scale_log2, scale_log2_rest));
      maximum[r] = raised;
      sum[r] = __fmaf_rn(sum[r], factor[r], x[r]);
    }
    add_values<kColumns>(output, factor, x, attended, values, p.head_dim);
  }

#pragma unroll
  for (int r = 0; r < kFp32WarpRows; ++r) {
    const int i = first_row + r;
    double over_lanes = sum[r];
#pragma unroll
    for (int step = 16; step > 0; step /= 2) over_lanes += __shfl_xor_sync(kWarp, over_lanes, step);
    sum[r] = static_cast<float>(over_lanes);
    if (i >= s.q_len) continue;
    const std::int64_t row = static_cast<std::int64_t>(s.q_start + i) * p.heads + head;
    if (blocks.active()) {
      const float left = p.logsumexp[row];  // NaN: a score is NaN or +inf, in a skipped block perhaps
      __syncwarp();                         // all lanes read before one writes
      if (left != left) sum[r] = left;
    }
    const bool nothing = sum[r] == 0.0f;
    if (lane == 0) {
      p.logsumexp[row] = nothing ? kNegativeInfinity<float> : __fmaf_rn(maximum[r], p.scale, logf(sum[r]));
    }
    float* target = static_cast<float*>(p.output) + row * p.head_dim;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if (lane + 32 * c < p.head_dim) target[lane + 32 * c] = nothing ? 0.0f : __fdiv_rn(output[r][c], sum[r]);
    }
  }
  recorder.finish();
}

template <int kColumns>
void launch(const ForwardParams& params, cudaStream_t stream) {
  const AttentionParams& p = params.attention;
  constexpr int kMostBytes = shared_bytes(32 * kColumns);  // the same for all calls: other threads may launch too
  MODELOPT_CUDA_CHECK(
      cudaFuncSetAttribute(forward_fp32<kColumns>, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostBytes),
      "asking for ", kMostBytes, " bytes of shared memory a block");
  const auto blocks = static_cast<unsigned>(params.query_tiles) * static_cast<unsigned>(p.heads) *
                      static_cast<unsigned>(p.batch);  // fits: run_sm80 checked it
  forward_fp32<kColumns><<<blocks, kFp32Threads, shared_bytes(p.head_dim), stream>>>(params);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching forward_fp32 with ", blocks, " blocks, head_dim ", p.head_dim);
}

}  // namespace

void launch_forward_fp32(const ForwardParams& params, cudaStream_t stream) {
  const int head_dim = params.attention.head_dim;
  head_dim <= 64 ? launch<2>(params, stream) : head_dim <= 128 ? launch<4>(params, stream) : launch<8>(params, stream);
}

}  // namespace modelopt::kernels::cuda::sm80
