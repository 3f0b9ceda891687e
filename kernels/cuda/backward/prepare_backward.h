// The small kernels around the backward kernels.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/backward/backward_params.h"

namespace modelopt::kernels::cuda {

/// Fills params.row_stats from output, grad_output, logsumexp and grad_logsumexp.
void prepare_row_stats(const BackwardParams& params, cudaStream_t stream);

/// Rounds `count` fp32 sums to `dtype`.
void round_sums(const float* sums, void* rounded, ElementType dtype, std::int64_t count, cudaStream_t stream);

}  // namespace modelopt::kernels::cuda
