// What a forward kernel of this folder gets.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_params.h"

namespace modelopt::kernels::cuda::sm80 {

struct ForwardParams {
  AttentionParams attention;
  float scale_log2 = 1.0f;   ///< softmax scale times log2(e)
  int query_tiles = 0;       ///< tiles of the grid per sequence and head: enough for max_q_len rows at any position
  bool whole_chunks = true;  ///< head_dim, bases and strides of q, k and v are multiples of 16 bytes
  /// With stats: one byte for each pair of blocks of each sequence and head, zeroed; set where a key is visible.
  std::uint8_t* block_visible = nullptr;
  int query_blocks = 0;
  int key_blocks = 0;
};

}  // namespace modelopt::kernels::cuda::sm80
