// Puts the chunks of a row together: one block per query row and head. A thread owns four elements of the head; the
// block's teams of head_dim / 4 threads share the chunks, team t takes chunks t, t + teams, ..., and the teams' sums
// are added in their order. Which chunk goes where depends on the row alone. Further blocks fill the rows that no
// sequence owns while the chunks are still being computed.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/decode/chunk_list.cuh"
#include "kernels/cuda/decode/launch_decode.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/fill_unowned_rows.cuh"

namespace modelopt::kernels::cuda::decode {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kVector = 4;  ///< elements of a thread

/// Where the chunks of a row are in the workspace.
struct RowChunks {
  std::int64_t first = 0;   ///< index of the first one's row
  std::int64_t stride = 0;  ///< from chunk to chunk
  int count = 0;
};

__device__ float block_maximum(float value) {
  __shared__ float maxima[kWarps];
  for (int distance = 16; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  if (threadIdx.x % 32 == 0) maxima[threadIdx.x / 32] = value;
  __syncthreads();
  float largest = maxima[0];
  for (int warp = 1; warp < kWarps; ++warp) largest = fmaxf(largest, maxima[warp]);
  return largest;
}

__device__ float largest_score(const DecodeParams& d, const RowChunks& chunks) {
  float largest = kNegativeInfinity<float>;
  for (int c = static_cast<int>(threadIdx.x); c < chunks.count; c += kThreads) {
    largest = fmaxf(largest, d.partial_softmax[chunks.first + c * chunks.stride].x);
  }
  return block_maximum(largest);
}

struct WeightedSum {
  float weights = 0.0f;
  float4 output = {0.0f, 0.0f, 0.0f, 0.0f};

  __device__ void add(float factor, float other_weights, float4 other) {
    weights += factor * other_weights;
    output.x += factor * other.x;
    output.y += factor * other.y;
    output.z += factor * other.z;
    output.w += factor * other.w;
  }
};

/// One team's chunks. `shift` is the largest score, or 0 if there is none; NaN sums stay NaN whatever their factor.
/// kSkipping: outputs without weights may not have been written.
template <bool kSkipping>
__device__ WeightedSum sum_of_team(const DecodeParams& d, const RowChunks& chunks, float shift, int team, int teams,
                                   int element) {
  const float scale = d.attention.scale * kLog2E;
  WeightedSum sum;
#pragma unroll 8  // loads in flight: the block waits for memory and little else
  for (int c = team; c < chunks.count; c += teams) {
    const std::int64_t row = chunks.first + c * chunks.stride;
    const float2 softmax = d.partial_softmax[row];
    float4 output = {0.0f, 0.0f, 0.0f, 0.0f};
    if (!kSkipping || softmax.y != 0.0f) {
      output = *reinterpret_cast<const float4*>(d.partial_output + row * d.attention.head_dim + element);
    }
    sum.add(exp2_approx((softmax.x - shift) * scale), softmax.y, output);
  }
  return sum;
}

template <typename Element>
__device__ void store(const AttentionParams& p, std::int64_t row, int element, const WeightedSum& sum) {
  const float inverse = sum.weights == 0.0f ? 0.0f : 1.0f / sum.weights;
  uint2 packed;
  packed.x = pack<Element>(sum.output.x * inverse, sum.output.y * inverse);
  packed.y = pack<Element>(sum.output.z * inverse, sum.output.w * inverse);
  *reinterpret_cast<uint2*>(static_cast<Element*>(p.output) + row * p.head_dim + element) = packed;
}

__host__ __device__ unsigned fill_blocks(const AttentionParams& p) {
  return static_cast<unsigned>((p.total_q + kThreads - 1) / kThreads);
}

template <typename Element>
__global__ void __launch_bounds__(kThreads) merge_chunks(const __grid_constant__ DecodeParams d) {
  __shared__ WeightedSum sums[kThreads];
  const AttentionParams& p = d.attention;
  const unsigned merging = gridDim.x - fill_blocks(p);
  if (blockIdx.x >= merging) {
    fill_block_of_rows<kThreads>(p, static_cast<int>(blockIdx.x - merging));
    return;
  }
  wait_for_previous_kernel();
  const int head = static_cast<int>(blockIdx.x % p.heads);
  const int token = static_cast<int>(blockIdx.x / p.heads % p.max_q_len);
  const int b = static_cast<int>(blockIdx.x / p.heads / p.max_q_len);
  const SequenceRange sequence = sequence_range(p, b);
  if (token >= sequence.q_len) return;
  const int before = d.chunk_offsets[b];
  const int row_of_key_head = token * d.group + head % d.group;
  const int part = head / d.group * d.row_blocks + row_of_key_head / kRowBlock;
  const RowChunks chunks{.first = (std::int64_t{before} * d.parts + part) * d.rows + row_of_key_head % kRowBlock,
                         .stride = std::int64_t{d.parts} * d.rows,
                         .count = d.chunk_offsets[b + 1] - before};
  const float largest = largest_score(d, chunks);
  const float shift = largest == kNegativeInfinity<float> ? 0.0f : largest;
  const int team_size = p.head_dim / kVector, teams = kThreads / team_size;
  const int team = static_cast<int>(threadIdx.x) / team_size;
  const int element = static_cast<int>(threadIdx.x) % team_size * kVector;
  if (team < teams) {
    sums[threadIdx.x] = p.skips() ? sum_of_team<true>(d, chunks, shift, team, teams, element)
                                  : sum_of_team<false>(d, chunks, shift, team, teams, element);
  }
  __syncthreads();
  if (team != 0) return;
  WeightedSum sum = sums[threadIdx.x];
  for (int t = 1; t < teams; ++t) {
    const WeightedSum& other = sums[t * team_size + static_cast<int>(threadIdx.x)];
    sum.add(1.0f, other.weights, other.output);
  }
  const std::int64_t row = std::int64_t{sequence.q_start} + token;
  store<Element>(p, row * p.heads + head, element, sum);
  if (threadIdx.x == 0) {
    p.logsumexp[row * p.heads + head] =
        sum.weights == 0.0f ? kNegativeInfinity<float> : largest * p.scale + logf(sum.weights);
  }
}

}  // namespace

void launch_merge_chunks(const DecodeParams& params, cudaStream_t stream) {
  const AttentionParams& p = params.attention;
  const auto blocks =
      static_cast<unsigned>(std::int64_t{p.batch} * p.max_q_len * p.heads) + fill_blocks(p);  // fits: decode_fits
  const auto kernel = p.dtype == ElementType::kFloat16 ? merge_chunks<__half> : merge_chunks<__nv_bfloat16>;
  cudaFuncAttributes compiled{};
  MODELOPT_CUDA_CHECK(cudaFuncGetAttributes(&compiled, kernel), "attributes of merge_chunks");
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = kThreads;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = compiled.ptxVersion >= 90 ? 1 : 0;  // older code does not wait in the kernel
  MODELOPT_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, params), "launching merge_chunks with ", blocks, " blocks");
}

}  // namespace modelopt::kernels::cuda::decode
