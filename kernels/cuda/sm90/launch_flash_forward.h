// The attention kernel of one combination, as the host launches it. Each combination is instantiated in a file of its
// own (flash_forward.cu.in).
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "kernels/cuda/sm90/traits.h"

namespace modelopt::kernels::cuda::sm90 {

/// Enqueues the kernel on `ctas` CTAs. Throws modelopt::Error with what CUDA says.
template <typename Traits>
void launch_flash_forward(const CUtensorMap& q_map, const KernelArguments& args, int ctas, cudaStream_t stream);

}  // namespace modelopt::kernels::cuda::sm90
