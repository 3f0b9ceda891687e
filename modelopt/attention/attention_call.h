// What an attention module hands to the attention interface for one forward.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace modelopt::attention {

/// Models always say the phase; it holds for the whole call. N:M sparsity is active in prefill only.
enum class Phase { kPrefill, kDecode };

[[nodiscard]] constexpr std::string_view to_string(Phase phase) {
  return phase == Phase::kPrefill ? "prefill" : "decode";
}

/// Packed sequences: queries and, where they differ (KV cache, chunked prefill), keys. int32 [B], on q's device.
struct SequenceLayout {
  at::Tensor b_start_loc;
  at::Tensor b_seq_len;
  std::int64_t max_input_len = 0;
  std::optional<at::Tensor> b_start_loc_k;
  std::optional<at::Tensor> b_seq_len_k;
  std::optional<std::int64_t> max_input_len_k;
  /// [B] length that each sequence has in full, on the host: in prefill that of the whole prompt, whatever part of it
  /// this call is; in decode that of its keys. Calibrated thresholds follow it. Empty: the lengths of the keys, which
  /// are then copied to the host where something needs them.
  std::vector<std::int64_t> full_lengths;
};

/// q [total_q, Hq, D]; k, v [total_kv, Hkv, D]; after projections, norms and RoPE.
struct AttentionCall {
  at::Tensor q, k, v;
  SequenceLayout layout;
  Phase phase = Phase::kPrefill;
  bool is_causal = true;
  double softmax_scale = 1.0;
  std::int64_t sliding_window = 0;  ///< 0 = no limit
};

}  // namespace modelopt::attention
