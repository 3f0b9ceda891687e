// Attention forward for fp32 inputs on the FMA units: exact first. A score is one chain of fused multiply-adds over
// head_dim in ascending order.
//
// One block of 4 warps: kFp32QueryRows consecutive query rows of one head, 8 for each warp; one loop over tiles of 32
// keys, counted from the sequence's first key. Lane l owns key l of the tile in the scores, and columns l, l + 32, … in
// the output. Whether a warp's rows attend to a key is uniform over the warp, and values that a row does not attend to
// are not multiplied.
//
//   shared memory   Q tile | K tile (padded: an odd number of 16-byte pieces a row) | V tile; at most 97 KiB
//   registers       8 rows x (kColumns outputs + score, maximum, sum, attended keys)
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/sm80/attended_keys.cuh"
#include "kernels/cuda/sm80/launch_forward.h"
#include "kernels/cuda/sm80/select_2of4.h"

namespace modelopt::kernels::cuda::sm80 {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kWarpRows = kFp32QueryRows / kWarps;
constexpr int kTileKeys = 32;
constexpr std::uint32_t kWarp = 0xFFFFFFFFu;

/// Floats of a row of the Q and V tiles: head_dim, padded with zeros to whole float4.
constexpr int row_floats(int head_dim) { return (head_dim + 3) / 4 * 4; }

/// Floats of a row of the K tile, in which the lanes of a warp read the same float4 of 32 rows.
constexpr int key_row_floats(int head_dim) { return (row_floats(head_dim) / 4 | 1) * 4; }

constexpr int shared_floats(int head_dim) {
  return (kFp32QueryRows + kTileKeys) * row_floats(head_dim) + kTileKeys * key_row_floats(head_dim);
}

/// Copies rows [row_begin, row_begin + rows) of a head; rows from row_end on and elements from head_dim on become 0.
__device__ void copy_rows(float* tile, int pitch, int rows, const float* head, std::int64_t row_stride, int row_begin,
                          int row_end, int head_dim) {
  const int width = row_floats(head_dim);
  for (int row = static_cast<int>(threadIdx.x) / 32; row < rows; row += kWarps) {
    const bool inside = row_begin + row < row_end;
    const float* source = head + (row_begin + row) * row_stride;
    for (int d = static_cast<int>(threadIdx.x) % 32; d < width; d += 32) {
      tile[row * pitch + d] = inside && d < head_dim ? source[d] : 0.0f;
    }
  }
}

__device__ const float* head_of(const void* data, Strides strides, int first_row, int head) {
  return static_cast<const float*>(data) + first_row * strides.row + head * strides.head;
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

/// What scale * log2(e) is beyond its rounding to fp32. Left out, all weights of a row would err the same way, and their
/// sum with them.
__device__ float rest_of_scale(float scale, float scale_log2) {
  constexpr float kLog2E = 1.44269504f, kLog2ERest = 1.92596303e-8f;
  return __fmaf_rn(scale, kLog2E, -scale_log2) + scale * kLog2ERest;
}

/// Without the rest where it is not finite: infinite differences keep their sign.
__device__ float scaled(float difference, float scale_log2, float rest) {
  return isinf(difference) ? difference : __fmaf_rn(difference, scale_log2, __fmul_rn(difference, rest));
}

/// kColumns * 32 >= head_dim.
template <int kColumns>
__global__ void __launch_bounds__(kThreads) forward_fp32(const __grid_constant__ ForwardParams params) {
  extern __shared__ __align__(16) float shared_fp32[];
  const AttentionParams& p = params.attention;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const auto tiles = static_cast<unsigned>(params.query_tiles);
  const int tile_of_head = static_cast<int>(tiles - 1 - blockIdx.x % tiles);  // those with the most keys come first
  const int head_of_batch = static_cast<int>(blockIdx.x / tiles);
  BlockProblem block{.batch = head_of_batch / p.heads, .head = head_of_batch % p.heads};
  block.sequence = sequence_range(p, block.batch);
  const SequenceRange& s = block.sequence;
  const int head = block.head;
  const int row_begin = tile_of_head * kFp32QueryRows;
  const int row_end = min(row_begin + kFp32QueryRows, s.q_len);
  if (row_begin >= row_end) return;

  const int offset = block.offset = s.k_len - s.q_len;
  const int end_key = p.is_causal ? min(row_end + offset, s.k_len) : s.k_len;
  const int first_key = p.sliding_window > 0 ? max(row_begin + offset - p.sliding_window + 1, 0) : 0;
  const int width = row_floats(p.head_dim);
  const int key_pitch = key_row_floats(p.head_dim);
  float* queries = shared_fp32;
  float* keys = queries + kFp32QueryRows * width;
  float* values = keys + kTileKeys * key_pitch;
  const int kv_head = head / (p.heads / p.kv_heads);
  const float* k = head_of(p.k, p.k_strides, s.k_start, kv_head);
  const float* v = head_of(p.v, p.v_strides, s.k_start, kv_head);

  Recorder recorder(params, block);
  recorder.clear_mask(row_begin, row_end);
  copy_rows(queries, width, kFp32QueryRows, head_of(p.q, p.q_strides, s.q_start, head), p.q_strides.row, row_begin,
            s.q_len, p.head_dim);

  const int first_row = row_begin + warp * kWarpRows;
  const float scale_log2 = params.scale_log2;
  const float scale_log2_rest = rest_of_scale(p.scale, scale_log2);
  float maximum[kWarpRows], sum[kWarpRows], output[kWarpRows][kColumns];
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    maximum[r] = kNegativeInfinity<float>;
    sum[r] = 0.0f;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) output[r][c] = 0.0f;
  }

  for (int tile_key = first_key / kTileKeys * kTileKeys; tile_key < end_key; tile_key += kTileKeys) {
    __syncthreads();  // all warps are done with the tiles before
    copy_rows(keys, key_pitch, kTileKeys, k, p.k_strides.row, tile_key, s.k_len, p.head_dim);
    copy_rows(values, width, kTileKeys, v, p.v_strides.row, tile_key, s.k_len, p.head_dim);
    __syncthreads();

    float x[kWarpRows] = {};
    for (int d = 0; d < width; d += 4) {
      const float4 key = *reinterpret_cast<const float4*>(keys + lane * key_pitch + d);
#pragma unroll
      for (int r = 0; r < kWarpRows; ++r) {
        const float4 query = *reinterpret_cast<const float4*>(queries + (warp * kWarpRows + r) * width + d);
        x[r] = __fmaf_rn(query.x, key.x, x[r]);
        x[r] = __fmaf_rn(query.y, key.y, x[r]);
        x[r] = __fmaf_rn(query.z, key.z, x[r]);
        x[r] = __fmaf_rn(query.w, key.w, x[r]);
      }
    }

    std::uint32_t attended[kWarpRows];  // by the row, of the tile's 32 keys
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      const int i = first_row + r;
      const int position = i + offset;
      const int key = tile_key + lane;
      const bool sees = visible_by_position(p, position, key, s.k_len) && x[r] != kNegativeInfinity<float>;
      const std::uint32_t visible = __ballot_sync(kWarp, sees);
      bool attends = sees;
      if (s.sparse_nm) {
        const bool kept = p.sparsity_m == 8 ? lane_key_kept<8>(x[r], visible, p.sparsity_n)
                                            : lane_key_kept<4>(x[r], visible, p.sparsity_n);
        attends = sees && (kept || dense_by_position(p, position, key));
      }
      attended[r] = __ballot_sync(kWarp, attends);
      if (recorder.active() && lane % 8 == 0) {
        recorder.record(position, key, visible >> lane & kAllKeys, attended[r] >> lane & kAllKeys);
      }

      float raised = larger_or_nan(maximum[r], sees ? x[r] : kNegativeInfinity<float>);
#pragma unroll
      for (int step = 16; step > 0; step /= 2) raised = larger_or_nan(raised, __shfl_xor_sync(kWarp, raised, step));
      // The difference is taken before scaling: exact for scores of any size. While the maximum is -inf all is 0.
      const float reference = raised == kNegativeInfinity<float> ? 0.0f : raised;
      const float factor = exp2f(scaled(__fsub_rn(maximum[r], reference), scale_log2, scale_log2_rest));  // 1 if nothing changed
      x[r] = exp2f(scaled(__fsub_rn(attends ? x[r] : kNegativeInfinity<float>, reference), scale_log2, scale_log2_rest));
      maximum[r] = raised;
      sum[r] = __fadd_rn(__fmul_rn(sum[r], factor), x[r]);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) output[r][c] = __fmul_rn(output[r][c], factor);
    }

    for (int key = 0; key < kTileKeys; ++key) {
      float value[kColumns];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        value[c] = lane + 32 * c < p.head_dim ? values[key * width + lane + 32 * c] : 0.0f;
      }
#pragma unroll
      for (int r = 0; r < kWarpRows; ++r) {
        const float weight = __shfl_sync(kWarp, x[r], key);
        if ((attended[r] >> key & 1) == 0) continue;
#pragma unroll
        for (int c = 0; c < kColumns; ++c) output[r][c] = __fmaf_rn(weight, value[c], output[r][c]);
      }
    }
  }

#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    const int i = first_row + r;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum[r] += __shfl_xor_sync(kWarp, sum[r], step);
    if (i >= s.q_len) continue;
    const bool nothing = sum[r] == 0.0f;
    const std::int64_t row = static_cast<std::int64_t>(s.q_start + i) * p.heads + head;
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
  const int bytes = shared_floats(p.head_dim) * static_cast<int>(sizeof(float));
  MODELOPT_CUDA_CHECK(cudaFuncSetAttribute(forward_fp32<kColumns>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
                      "asking for ", bytes, " bytes of shared memory a block");
  const auto blocks = static_cast<unsigned>(params.query_tiles) * static_cast<unsigned>(p.heads) *
                      static_cast<unsigned>(p.batch);  // fits: run_sm80 checked it
  forward_fp32<kColumns><<<blocks, kThreads, bytes, stream>>>(params);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching forward_fp32 with ", blocks, " blocks, head_dim ", p.head_dim);
}

}  // namespace

void launch_forward_fp32(const ForwardParams& params, cudaStream_t stream) {
  const int head_dim = params.attention.head_dim;
  head_dim <= 64 ? launch<2>(params, stream) : head_dim <= 128 ? launch<4>(params, stream) : launch<8>(params, stream);
}

}  // namespace modelopt::kernels::cuda::sm80
