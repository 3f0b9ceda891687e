// The backward kernels of this folder: one instantiation of the template per file.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/backward/backward_params.h"

struct __half;
struct __nv_bfloat16;

namespace modelopt::kernels::cuda::sm80 {

/// What one launch computes.
enum class Gradients { kQueries, kKeys, kValues, kKeysAndValues };

struct BackwardLaunch {
  BackwardParams params;
  float scale_log2 = 1.0f;   ///< softmax scale times log2(e)
  int row_tiles = 0;         ///< tiles of the grid per sequence and head
  bool whole_chunks = true;  ///< head_dim, bases and strides of all inputs are multiples of 16 bytes
};

inline constexpr int kBackwardRows = 64;

/// For head_dim <= kHeadDim and 16-bit elements.
template <typename Element, int kHeadDim, Gradients kGradients>
void launch_backward(const BackwardLaunch& launch, cudaStream_t stream);

/// fp32, any head_dim and alignment: kQueries or kKeysAndValues.
inline constexpr int kFp32BackwardRows = 16;
void launch_backward_fp32(const BackwardLaunch& launch, Gradients gradients, cudaStream_t stream);

}  // namespace modelopt::kernels::cuda::sm80
