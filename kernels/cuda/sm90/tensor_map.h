// Tensor maps (descriptors of bulk tensor copies) over rows of heads.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/attention_params.h"

namespace modelopt::kernels::cuda::sm90 {

/// A tensor [rows, heads, head_dim] of 16-bit elements.
struct HeadTensor {
  const void* base = nullptr;
  ElementType dtype = ElementType::kBFloat16;
  std::int64_t rows = 0;
  std::int64_t heads = 0;
  std::int64_t head_dim = 0;
  Strides strides;  ///< in elements
};

/// Boxes of 64 elements x 1 head x `box_rows` rows: coordinates (element, head, row).
[[nodiscard]] CUtensorMap head_map(const HeadTensor& tensor, int box_rows);

/// Boxes of 64 elements x `box_rows` rows of head 0: coordinates (element, row).
[[nodiscard]] CUtensorMap row_map(const HeadTensor& tensor, int box_rows);

/// Boxes of 64 elements x `box_rows` rows of head 0, permuted within blocks of `block` rows: row (block/4)c + 2h + e
/// goes to place 8h + 2c + e. Coordinates (element, 0, 0, 0, block of rows).
[[nodiscard]] CUtensorMap permuted_row_map(const HeadTensor& tensor, int box_rows, int block);

}  // namespace modelopt::kernels::cuda::sm90
