// How a warp takes a tile of keys, from positions alone. Host and device; a test compares the ways with the rules for
// single keys.
#pragma once

#include "kernels/cuda/attention_params.h"

namespace modelopt::kernels::cuda::sm80 {

enum class TileWay {
  kHidden,    ///< no row sees any of the keys: nothing is computed
  kWhole,     ///< every row attends to every key: dense product (mma.m16n8k16)
  kSelected,  ///< every key is visible, none is dense by position, N:M decides: with 2:4 and 1:4 two of four weights
              ///< are computed and multiplied (mma.sp.m16n8k32), otherwise the dropped ones are 0
  kMasked,  ///< position and selection decide for each key: dense product
};

/// For rows at positions first_row … last_row, whether they exist or not: the way of a row's tile must not depend on
/// which of its neighbours are in this call.
MODELOPT_HOST_DEVICE constexpr TileWay way_of_tile(const AttentionParams& p, int k_len, bool sparse_nm, int first_row,
                                                   int last_row, int first_key, int last_key) {
  const int window = p.sliding_window;
  if (first_key >= k_len || (p.is_causal && first_key > last_row) || (window > 0 && first_row - last_key >= window)) {
    return TileWay::kHidden;
  }
  const bool all_visible =
      last_key < k_len && (!p.is_causal || last_key <= first_row) && (window == 0 || last_row - first_key < window);
  if (!all_visible) return TileWay::kMasked;
  if (!sparse_nm) return TileWay::kWhole;
  const bool outside_window =
      p.dense_window_size == 0 || first_row - last_key >= p.dense_window_size || first_key > last_row;
  const bool none_dense = first_key >= p.num_sink_tokens && outside_window;
  return none_dense ? TileWay::kSelected : TileWay::kMasked;
}

}  // namespace modelopt::kernels::cuda::sm80
