// Host side of the Hopper skip-softmax kernel.
#pragma once

#include "kernels/cuda/launch.h"
#include "kernels/cuda/visible_blocks.h"

namespace modelopt::kernels::cuda::sm90 {

/// Dense attention with skip-softmax in blocks of 128 rows and 128 keys, head_dim up to 128, fp16 and bf16: enqueues
/// preparation and attention of the sequences whose lambda is above 0.
void run_skip(const AttentionParams& params, const VisibleBlocks& blocks, const Workspace& workspace,
              cudaStream_t stream);

}  // namespace modelopt::kernels::cuda::sm90
