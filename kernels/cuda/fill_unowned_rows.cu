#include "kernels/cuda/fill_unowned_rows.cuh"

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/launch.h"

namespace modelopt::kernels::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void fill_rows(AttentionParams params) {
  fill_block_of_rows<kThreads>(params, static_cast<int>(blockIdx.x));
}

}  // namespace

void fill_unowned_rows(const AttentionParams& params, cudaStream_t stream) {
  if (params.total_q == 0) return;
  fill_rows<<<(params.total_q + kThreads - 1) / kThreads, kThreads, 0, stream>>>(params);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching fill_rows for ", params.total_q, " rows");
}

}  // namespace modelopt::kernels::cuda
