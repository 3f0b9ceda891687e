// Shapes and dtypes that the kernels and the meta kernels must agree on; Int is int64 or c10::SymInt.
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/core/SymInt.h>

#include <modelopt/kernels/attention.h>

#include <algorithm>
#include <cstdint>
#include <optional>

namespace modelopt::kernels {

[[nodiscard]] inline at::ScalarType logsumexp_dtype(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

/// The upper bound of the key lengths: the caller's, or by default the queries' (without key metadata) or total_kv.
template <typename Int>
[[nodiscard]] Int key_length_bound(const AttentionArgs& args, const Int& max_input_len,
                                   const std::optional<Int>& max_input_len_k, const Int& total_kv) {
  if (max_input_len_k) return *max_input_len_k;
  return args.b_start_loc_k || args.b_seq_len_k ? total_kv : max_input_len;
}

[[nodiscard]] inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return std::min(a, b); }
/// Symbolic: no guard on which is smaller.
[[nodiscard]] inline c10::SymInt smaller(const c10::SymInt& a, const c10::SymInt& b) { return a.min(b); }

/// Bytes of one row of the attended mask. A loose bound costs no more than total_kv bits.
template <typename Int>
[[nodiscard]] Int mask_row_bytes(const Int& key_bound, const Int& total_kv) {
  return (smaller(key_bound, total_kv) + 7) / 8;
}
[[nodiscard]] inline std::int64_t mask_row_bytes(const AttentionArgs& args) {
  const std::int64_t total_kv = args.k.size(0);
  return mask_row_bytes(key_length_bound(args, args.max_input_len, args.max_input_len_k, total_kv), total_kv);
}

}  // namespace modelopt::kernels
