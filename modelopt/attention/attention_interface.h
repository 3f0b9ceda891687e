// The one function an attention module calls.
#pragma once

#include <ATen/core/Tensor.h>

#include <modelopt/attention/attention_call.h>
#include <modelopt/attention/attention_slot.h>

namespace modelopt::attention {

struct AttentionOutput {
  at::Tensor output;  ///< [total_q, Hq, D], contiguous, q's dtype
  at::Tensor stats;   ///< int64 [B, Hq, 4] if the slot asks for statistics, else undefined; columns as in the operator
};

/// Consults the slot, lets its method activate itself for this call, and runs the operator (or the eager path).
/// Throws InvalidArgument and Unsupported as the operator does.
[[nodiscard]] AttentionOutput attend(const AttentionSlot& slot, const AttentionCall& call);

}  // namespace modelopt::attention
