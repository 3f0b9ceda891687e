// The one function an attention module calls.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include <modelopt/attention/attention_call.h>
#include <modelopt/attention/attention_slot.h>

namespace modelopt::attention {

/// Blocks that thresholds which are not applied would skip.
struct TrialCounts {
  std::vector<double> thresholds;  ///< [T]; empty: none were counted
  at::Tensor skipped;              ///< int64 [B, Hq, T] of the visible blocks; undefined without thresholds
};

struct AttentionOutput {
  at::Tensor output;   ///< [total_q, Hq, D], contiguous, q's dtype
  at::Tensor stats;    ///< int64 [B, Hq, 4] if the slot asks for statistics, else undefined; columns as in the operator
  TrialCounts trials;  ///< of the method's trial thresholds, with the statistics
};

/// Consults the slot, lets its method activate itself for this call, and runs the operator (or the eager path).
/// Throws InvalidArgument and Unsupported as the operator does.
[[nodiscard]] AttentionOutput attend(const AttentionSlot& slot, const AttentionCall& call);

}  // namespace modelopt::attention
