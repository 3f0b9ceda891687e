// The backward kernel of one combination, as the host launches it. Each combination is instantiated in a file of its
// own.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/sm90/backward/backward_traits.h"

struct __half;
struct __nv_bfloat16;

namespace modelopt::kernels::cuda::sm90 {

/// Enqueues the kernel on `ctas` CTAs. Throws modelopt::Error with what CUDA says.
template <typename Traits>
void launch_flash_backward(const BackwardArguments& args, unsigned ctas, cudaStream_t stream);

}  // namespace modelopt::kernels::cuda::sm90
