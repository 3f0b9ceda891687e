// Gradients of attention over the attended set: the mask is the one that the forward used, and a constant.
#pragma once

#include <ATen/core/Tensor.h>

#include <modelopt/kernels/attention.h>

#include <array>
#include <optional>

#include "kernels/operator_call.h"

namespace modelopt::kernels {

/// What the backward takes besides the arguments of the forward.
struct BackwardInputs {
  std::optional<at::Tensor> grad_output;         ///< [total_q, Hq, D]; missing: zero
  std::optional<at::Tensor> grad_logsumexp;      ///< [total_q, Hq]; missing: zero
  at::Tensor output, logsumexp;                  ///< the forward's
  std::optional<at::Tensor> mask;                ///< as attention_with_mask returned it; missing: decided again
  std::array<bool, 3> wanted{true, true, true};  ///< grad_q, grad_k, grad_v
};

struct AttentionGradients {
  at::Tensor q, k, v;  ///< like the inputs, contiguous; undefined where not wanted
};

/// Validates, and runs the backward on the backend that `args` selects for the forward.
/// Throws InvalidArgument for what the forward would refuse and for tensors that do not belong together, Unsupported
/// where the backend has no backward for them.
[[nodiscard]] AttentionGradients run_attention_backward(const AttentionArgs& args, const BackwardInputs& inputs);

/// Whether the forward of such a call stores the attended mask for its backward (kernels/backend.h). Reads no data and
/// no lengths, which are symbolic while torch.compile traces.
[[nodiscard]] bool stores_mask_for_backward(const OperatorCall& call);

}  // namespace modelopt::kernels
