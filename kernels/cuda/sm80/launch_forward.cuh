// Definition of launch_forward, for the files that instantiate it.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/sm80/forward_kernel.cuh"
#include "kernels/cuda/sm80/launch_forward.h"

namespace modelopt::kernels::cuda::sm80 {

template <typename Element, int kHeadDim, bool kSparse, bool kGeneral>
void launch_forward(const ForwardParams& params, cudaStream_t stream) {
  using Config = ForwardConfig<Element, kHeadDim, kSparse, kGeneral>;
  static_assert(Config::kRows == query_tile_rows(kHeadDim));
  const AttentionParams& p = params.attention;
  MODELOPT_CUDA_CHECK(
      cudaFuncSetAttribute(forward_kernel<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize, Config::kSharedBytes),
      "asking for ", Config::kSharedBytes, " bytes of shared memory a block");
  const auto blocks = static_cast<unsigned>(params.query_tiles) * static_cast<unsigned>(p.heads) *
                      static_cast<unsigned>(p.batch);  // fits: run_sm80 checked it
  forward_kernel<Config><<<blocks, Config::kThreads, Config::kSharedBytes, stream>>>(params);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching forward_kernel with ", blocks, " blocks, head_dim ", p.head_dim);
}

}  // namespace modelopt::kernels::cuda::sm80
