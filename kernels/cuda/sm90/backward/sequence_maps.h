// Tensor maps of the backward kernels: one set per sequence, made on the GPU, because the lengths are there.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "kernels/cuda/sm90/backward/backward_traits.h"

namespace modelopt::kernels::cuda::sm90 {

/// The maps of whole tensors (tensor_map.h), to be moved to each sequence's first row and cut to its length.
struct SequenceMapTemplates {
  CUtensorMap maps[kBackwardMapKinds];
  const void* base[kBackwardMapKinds];
  std::int64_t bytes_per_row[kBackwardMapKinds];
  std::int64_t bytes_per_head[kBackwardMapKinds];  ///< 0: the head is a coordinate
  int row_dimension[kBackwardMapKinds];            ///< the map's dimension of rows, or of blocks of rows
  int block_rows[kBackwardMapKinds];               ///< rows of one step of it; 0: no such map
  bool of_queries[kBackwardMapKinds];              ///< rows are those of the queries, not of the keys
};

/// Enqueues the kernel that fills `maps` [batch, heads, kBackwardMapKinds]. A map of an empty sequence is never used.
void make_sequence_maps(const AttentionParams& params, const SequenceMapTemplates& templates, int heads,
                        CUtensorMap* maps, cudaStream_t stream);

}  // namespace modelopt::kernels::cuda::sm90
