// The forward and vote kernels of this folder: one instantiation of a template per file.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/sm80/forward_params.h"

struct __half;
struct __nv_bfloat16;

namespace modelopt::kernels::cuda::sm80 {

/// What the kernels of a problem get, but for visible_blocks. Throws Unsupported where the grid would be too large.
[[nodiscard]] ForwardParams forward_params_of(const AttentionParams& params);

/// The vote kernel for the problem's elements and head_dim.
void run_votes(const ForwardParams& params, cudaStream_t stream);

/// Query rows of a tile; ForwardParams::query_tiles is computed with it.
[[nodiscard]] constexpr int query_tile_rows(int padded_head_dim) { return padded_head_dim <= 128 ? 128 : 64; }

/// For head_dim <= kHeadDim. kSparse: sparsity_m is 4 and sparsity_n 1 or 2; kGeneral: any other N:M, any alignment,
/// mask, statistics and skip-softmax.
template <typename Element, int kHeadDim, bool kSparse, bool kGeneral>
void launch_forward(const ForwardParams& params, cudaStream_t stream);

/// Skip-softmax: which blocks are attended, for head_dim <= kHeadDim and any alignment (vote_kernel.cuh).
template <typename Element, int kHeadDim>
void launch_votes(const ForwardParams& params, cudaStream_t stream);

/// Query rows of a tile of fp32 inputs.
inline constexpr int kFp32QueryRows = 32;

/// fp32 inputs, any head_dim and alignment, any N:M, mask, statistics and skip-softmax.
void launch_forward_fp32(const ForwardParams& params, cudaStream_t stream);
void launch_votes_fp32(const ForwardParams& params, cudaStream_t stream);

}  // namespace modelopt::kernels::cuda::sm80
