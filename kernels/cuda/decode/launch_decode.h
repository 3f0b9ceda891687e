// Launches of the decode kernels, defined in split_keys.cuh, skip_keys.cuh and merge_chunks.cu.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/decode/decode_params.h"

namespace modelopt::kernels::cuda::decode {

/// For head_dim <= kHeadDim.
template <typename Element, int kHeadDim>
void launch_split_keys(const DecodeParams& params, cudaStream_t stream);

/// The same with skip-softmax. Writes the attended mask, which is zeroed, and adds to the statistics.
template <typename Element, int kHeadDim>
void launch_skip_keys(const DecodeParams& params, cudaStream_t stream);

/// Where the GPU can (sm_90), its blocks are already in place when split_keys ends.
void launch_merge_chunks(const DecodeParams& params, cudaStream_t stream);

}  // namespace modelopt::kernels::cuda::decode
