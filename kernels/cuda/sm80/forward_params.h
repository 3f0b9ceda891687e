// What a forward kernel of this folder gets.
#pragma once

#include "kernels/cuda/attention_params.h"
#include "kernels/cuda/visible_blocks.h"

namespace modelopt::kernels::cuda::sm80 {

struct ForwardParams {
  AttentionParams attention;
  float scale_log2 = 1.0f;       ///< softmax scale times log2(e)
  float slack = 8.0f;            ///< 8 / scale_log2, finite (row_softmax.cuh)
  int query_tiles = 0;           ///< tiles of the grid per sequence and head: enough for max_q_len rows at any position
  bool whole_chunks = true;      ///< head_dim, bases and strides of q, k and v are multiples of 16 bytes
  VisibleBlocks visible_blocks;  ///< with statistics or skip-softmax
};

}  // namespace modelopt::kernels::cuda::sm80
