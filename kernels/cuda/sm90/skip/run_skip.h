// Host side of the Hopper skip-softmax kernel.
#pragma once

#include "kernels/cuda/launch.h"

namespace modelopt::kernels::cuda::sm90 {

/// Dense attention with skip-softmax in blocks of 128 rows and 128 keys, head_dim up to 128, fp16 and bf16: enqueues
/// preparation and attention.
void run_skip(const AttentionParams& params, const Workspace& workspace, cudaStream_t stream);

}  // namespace modelopt::kernels::cuda::sm90
