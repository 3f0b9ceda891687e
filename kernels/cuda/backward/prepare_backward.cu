#include "kernels/cuda/backward/prepare_backward.h"

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/fill_unowned_rows.cuh"

namespace modelopt::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRowsPerBlock = kThreads / 32;

template <typename Element>
__device__ float to_float(Element x) {
  if constexpr (std::is_same_v<Element, float>) {
    return x;
  } else if constexpr (std::is_same_v<Element, __half>) {
    return __half2float(x);
  } else {
    return __bfloat162float(x);
  }
}

/// One warp per row and head. Rows that the forward gave to no sequence attend nothing: their log-sum-exp is -inf.
template <typename Element>
__global__ void __launch_bounds__(kThreads) row_stats(const __grid_constant__ BackwardParams params) {
  const AttentionParams& p = params.attention;
  const std::int64_t index = std::int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / 32;
  const std::int64_t row = index / p.heads;
  const auto head = static_cast<int>(index % p.heads);
  if (row >= p.total_q) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t first = row * params.query_rows.row + head * params.query_rows.head;
  const Element* output = static_cast<const Element*>(p.output) + first;
  const Element* gradient = static_cast<const Element*>(params.grad_output) + first;
  float dot = 0.0f;
  for (int d = lane; d < p.head_dim; d += 32) dot = fmaf(to_float(output[d]), to_float(gradient[d]), dot);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) dot += __shfl_xor_sync(0xFFFFFFFFu, dot, step);
  if (lane != 0) return;
  const std::int64_t at = row * params.logsumexp_stride + head;
  const float logsumexp = p.logsumexp[at];
  if (params.grad_logsumexp != nullptr) dot -= params.grad_logsumexp[at];
  const bool attends_nothing = logsumexp == kNegativeInfinity<float>;
  // A NaN row has NaN weights where it attends; a NaN here would reach the other keys as well.
  params.row_stats[head * std::int64_t{p.total_q} + row] = {
      attends_nothing ? -kNegativeInfinity<float> : logsumexp * exponent_unit(p.dtype),
      attends_nothing || isnan(logsumexp) ? 0.0f : dot};
}

__global__ void __launch_bounds__(kThreads)
    round_elements(const float* sums, void* rounded, ElementType dtype, std::int64_t count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) store_element(rounded, i, dtype, sums[i]);
}

unsigned blocks_for(std::int64_t count, int per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

}  // namespace

void prepare_row_stats(const BackwardParams& params, cudaStream_t stream) {
  const AttentionParams& p = params.attention;
  const std::int64_t rows = std::int64_t{p.total_q} * p.heads;
  if (rows == 0) return;
  auto* kernel = p.dtype == ElementType::kFloat32   ? &row_stats<float>
                 : p.dtype == ElementType::kFloat16 ? &row_stats<__half>
                                                    : &row_stats<__nv_bfloat16>;
  kernel<<<blocks_for(rows, kRowsPerBlock), kThreads, 0, stream>>>(params);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching row_stats for ", rows, " rows of heads");
}

void round_sums(const float* sums, void* rounded, ElementType dtype, std::int64_t count, cudaStream_t stream) {
  if (count == 0) return;
  round_elements<<<blocks_for(count, kThreads), kThreads, 0, stream>>>(sums, rounded, dtype, count);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching round_elements for ", count, " sums");
}

}  // namespace modelopt::kernels::cuda
