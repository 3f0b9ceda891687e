// Definition of launch_backward, for the files that instantiate it.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/sm80/backward/backward_kernel.cuh"

namespace modelopt::kernels::cuda::sm80 {

template <typename Element, int kHeadDim, Gradients kGradients>
void launch_backward(const BackwardLaunch& launch, cudaStream_t stream) {
  using Config = BackwardConfig<Element, kHeadDim, kGradients>;
  const AttentionParams& p = launch.params.attention;
  MODELOPT_CUDA_CHECK(
      cudaFuncSetAttribute(backward_kernel<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize, Config::kSharedBytes),
      "asking for ", Config::kSharedBytes, " bytes of shared memory a block");
  const auto blocks = static_cast<unsigned>(launch.row_tiles) * static_cast<unsigned>(p.batch) *
                      static_cast<unsigned>(Config::kRowsAreQueries ? p.heads : p.kv_heads);
  backward_kernel<Config><<<blocks, Config::kThreads, Config::kSharedBytes, stream>>>(launch);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching backward_kernel with ", blocks, " blocks, head_dim ", p.head_dim);
}

}  // namespace modelopt::kernels::cuda::sm80
