// The skip-softmax kernel of one combination, as the host launches it. Each combination is instantiated in a file of
// its own (skip_forward.cu.in).
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "kernels/cuda/sm90/skip/skip_traits.h"

namespace modelopt::kernels::cuda::sm90 {

/// Enqueues the kernel on `ctas` CTAs. Throws modelopt::Error with what CUDA says.
template <typename Traits>
void launch_skip_forward(const CUtensorMap& q_map, const SkipArguments& args, int ctas, cudaStream_t stream);

}  // namespace modelopt::kernels::cuda::sm90
