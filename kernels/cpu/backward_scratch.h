// The working memory of one backward task, beyond the forward's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/flash_scratch.h"

namespace modelopt::kernels::cpu {

/// Arrays in one piece of memory, as FlashScratch; row-major rows are padded to whole vectors.
template <class V>
class BackwardScratch {
 public:
  using T = typename V::Scalar;
  static constexpr int kBlockLanes = V::kMaxVectors * V::kLanes;

  BackwardScratch(void* memory, std::int64_t head_dim, std::int64_t lanes) : base_(static_cast<char*>(memory)) {
    const std::int64_t padded_lanes = round_up(lanes, V::kLanes);
    const std::int64_t row_length = padded_row(head_dim);
    finite_k = take(kKeyTile * round_up(head_dim, kSubtile));
    grad_scores = take(kKeyTile * kBlockLanes);
    grad_out = take(padded_lanes * head_dim);
    q_rows = take(lanes * row_length);
    grad_out_rows = take(lanes * row_length);
    grad_k = take(kKeyTile * row_length);
    grad_v = take(kKeyTile * row_length);
    center = take(padded_lanes);
    offset = take(padded_lanes);
    bias = take(padded_lanes);
  }

  [[nodiscard]] static std::int64_t padded_row(std::int64_t head_dim) { return round_up(head_dim, V::kLanes); }
  [[nodiscard]] std::size_t bytes() const { return used_; }

  T* finite_k;       ///< [kKeyTile, padded_dim] the tile of K with 0 where it is not finite
  T* grad_scores;    ///< [kKeyTile, lanes of a block]
  T* grad_out;       ///< blocks of [head_dim, lanes]
  T* q_rows;         ///< [lanes, padded_row] scale * q, 0 where that is not finite
  T* grad_out_rows;  ///< [lanes, padded_row]
  T* grad_k;         ///< [kKeyTile, padded_row] what the task adds to the tile's keys
  T* grad_v;         ///< [kKeyTile, padded_row]
  T* center;         ///< [lanes] log-sum-exp / scale: the score whose weight is 2^offset
  T* offset;         ///< [lanes] what rounding center leaves, times log2(e)
  T* bias;           ///< [lanes] grad_logsumexp - grad_output.output

 private:
  T* take(std::int64_t count) {
    T* const taken = reinterpret_cast<T*>(base_ + used_);
    used_ += static_cast<std::size_t>(round_up(static_cast<std::int64_t>(sizeof(T)) * count, 64));
    return taken;
  }

  char* base_;
  std::size_t used_ = 0;
};

}  // namespace modelopt::kernels::cpu
