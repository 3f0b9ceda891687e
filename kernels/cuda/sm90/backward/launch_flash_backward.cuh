// Definition of launch_flash_backward, for the files that instantiate it.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/sm90/backward/flash_backward.cuh"
#include "kernels/cuda/sm90/backward/launch_flash_backward.h"

namespace modelopt::kernels::cuda::sm90 {

template <typename Traits>
void launch_flash_backward(const BackwardArguments& args, unsigned ctas, cudaStream_t stream) {
  constexpr int kSharedBytes = static_cast<int>(sizeof(BackwardShared<Traits>)) + 1024;  // to align it to 1024
  static_assert(kSharedBytes <= 227 * 1024);
  auto* kernel = &flash_backward<Traits>;
  MODELOPT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
                      "reserving ", kSharedBytes, " bytes of shared memory for the sm90 backward");
  kernel<<<ctas, Traits::kThreads, kSharedBytes, stream>>>(args);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching the sm90 backward with head_dim ", args.params.attention.head_dim,
                      " on ", ctas, " CTAs");
}

}  // namespace modelopt::kernels::cuda::sm90
