// Launch of a persistent Hopper kernel: as many CTAs as multiprocessors, shared memory as its traits say.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/sm90/launch_overlapped.h"
#include "kernels/cuda/sm90/traits.h"

namespace modelopt::kernels::cuda::sm90 {

/// Enqueues the kernel on `ctas` CTAs. Its start overlaps with the end of the kernel before, for which it waits itself.
template <typename Traits, typename Arguments>
void launch_persistent(void (*kernel)(CUtensorMap, Arguments), const CUtensorMap& q_map, const Arguments& args,
                       int ctas, cudaStream_t stream) {
  constexpr int kSharedBytes = static_cast<int>(sizeof(SharedMemory<Traits>)) + 1024;  // to align it to 1024
  static_assert(kSharedBytes <= 227 * 1024);
  MODELOPT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
                      "reserving ", kSharedBytes, " bytes of shared memory for sm90 attention");
  MODELOPT_CUDA_CHECK(launch_overlapped(kernel, dim3(static_cast<unsigned>(ctas)), dim3(Traits::kThreads), kSharedBytes,
                                        stream, q_map, args),
                      "launching sm90 attention with head_dim ", args.params.head_dim, " on ", ctas, " CTAs");
}

}  // namespace modelopt::kernels::cuda::sm90
