// Autograd kernels: output and logsumexp are differentiable in q, k and v; stats and mask are not.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>

#include "kernels/attention_backward.h"
#include "kernels/operator_call.h"

namespace modelopt::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool needs_autograd(const at::Tensor& t) {
  // A forward-mode tangent must reach the Function below, which refuses it, rather than be dropped.
  return t.defined() && ((at::GradMode::is_enabled() && t.requires_grad()) || t._fw_grad(/*level=*/0).defined());
}

bool needs_autograd(const OperatorCall& call) {
  return needs_autograd(call.args.q) || needs_autograd(call.args.k) || needs_autograd(call.args.v);
}

std::optional<at::Tensor> optional_of(const at::Tensor& t) {
  return t.defined() ? std::optional<at::Tensor>(t) : std::nullopt;
}

OperatorResult call_backward(const OperatorCall& call, const std::optional<at::Tensor>& grad_output,
                             const std::optional<at::Tensor>& grad_logsumexp, const at::Tensor& output,
                             const at::Tensor& logsumexp, const std::optional<at::Tensor>& mask,
                             const std::array<bool, 3>& wanted) {
  return call_operator<OperatorResult>("modelopt::attention_backward", call, grad_output, grad_logsumexp, output,
                                       logsumexp, mask, wanted);
}

/// A call between forward and backward. Its tensors are the node's saved variables, so that autograd sees when one was
/// changed in place, and frees them after the backward; the rest waits here.
struct SavedCall : torch::CustomClassHolder {
  explicit SavedCall(OperatorCall from) : call(std::move(from)) {
    AttentionArgs& args = call.args;
    args.q = args.k = args.v = args.b_start_loc = args.b_seq_len = at::Tensor();
    args.b_start_loc_k = args.b_seq_len_k = args.skip_softmax_lambda = std::nullopt;
  }

  static variable_list tensors_of(const AttentionArgs& args) {
    return {args.q,
            args.k,
            args.v,
            args.b_start_loc,
            args.b_seq_len,
            args.b_start_loc_k.value_or(at::Tensor()),
            args.b_seq_len_k.value_or(at::Tensor()),
            args.skip_softmax_lambda.value_or(at::Tensor())};
  }
  static constexpr std::size_t kTensors = 8;

  [[nodiscard]] OperatorCall with_tensors(const variable_list& saved) const {
    OperatorCall whole = call;
    AttentionArgs& args = whole.args;
    args.q = saved[0];
    args.k = saved[1];
    args.v = saved[2];
    args.b_start_loc = saved[3];
    args.b_seq_len = saved[4];
    args.b_start_loc_k = optional_of(saved[5]);
    args.b_seq_len_k = optional_of(saved[6]);
    args.skip_softmax_lambda = optional_of(saved[7]);
    return whole;
  }

  OperatorCall call;
};

/// q, k and v appear beside the call that holds them because autograd tracks tensor arguments only.
struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  /// The mask is returned if `with_mask`, and undefined otherwise.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& /*q*/, const at::Tensor& /*k*/,
                               const at::Tensor& /*v*/, const OperatorCall& call, bool with_mask) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    at::Tensor output, logsumexp, stats, mask;
    if (with_mask || stores_mask_for_backward(call)) {
      std::tie(output, logsumexp, stats, mask) =
          call_operator<OperatorMaskResult>("modelopt::attention_with_mask", call);
    } else {
      std::tie(output, logsumexp, stats) = call_operator<OperatorResult>("modelopt::attention", call);
    }
    variable_list saved = SavedCall::tensors_of(call.args);
    saved.insert(saved.end(), {output, logsumexp, mask});
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["call"] = at::IValue::make_capsule(c10::make_intrusive<SavedCall>(call));
    ctx->set_materialize_grads(false);
    if (!with_mask) {
      ctx->mark_non_differentiable({stats});
      return {output, logsumexp, stats};
    }
    ctx->mark_non_differentiable({stats, mask});
    return {output, logsumexp, stats, mask};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    constexpr std::size_t kInputs = 5;
    if (!gradients[0].defined() && !gradients[1].defined()) return variable_list(kInputs);
    const auto holder = ctx->saved_data["call"].toCapsule();
    const variable_list saved = ctx->get_saved_variables();
    const OperatorCall call = static_cast<const SavedCall&>(*holder).with_tensors(saved);
    const variable_list results(saved.begin() + SavedCall::kTensors, saved.end());
    const std::array<bool, 3> wanted{ctx->needs_input_grad(0), ctx->needs_input_grad(1), ctx->needs_input_grad(2)};
    auto [grad_q, grad_k, grad_v] = call_backward(call, optional_of(gradients[0]), optional_of(gradients[1]),
                                                  results[0], results[1], optional_of(results[2]), wanted);
    return {grad_q, grad_k, grad_v, at::Tensor(), at::Tensor()};
  }
};

/// Lets first-order gradients pass under create_graph, and says so when a second derivative is really asked for.
struct NoSecondDerivative : torch::autograd::Function<NoSecondDerivative> {
  template <typename Compute>
  static variable_list forward(AutogradContext*, const std::optional<at::Tensor>& /*grad_output*/,
                               const std::optional<at::Tensor>& /*grad_logsumexp*/, const at::Tensor& /*q*/,
                               const at::Tensor& /*k*/, const at::Tensor& /*v*/, const Compute& compute) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto [grad_q, grad_k, grad_v] = compute();
    variable_list wanted;  // autograd does not take undefined outputs
    for (const at::Tensor& gradient : {grad_q, grad_k, grad_v}) {
      if (gradient.defined()) wanted.push_back(gradient);
    }
    return wanted;
  }

  static variable_list backward(AutogradContext*, const variable_list&) {
    throw Unsupported(
        "second derivatives of modelopt::attention are not implemented: call backward without create_graph");
  }
};

OperatorResult autograd(const OperatorCall& call) {
  if (!needs_autograd(call)) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    return call_operator<OperatorResult>("modelopt::attention", call);
  }
  const AttentionArgs& args = call.args;
  const variable_list results = AttentionFunction::apply(args.q, args.k, args.v, call, /*with_mask=*/false);
  return {results[0], results[1], results[2]};
}

OperatorMaskResult autograd_with_mask(const OperatorCall& call) {
  if (!needs_autograd(call)) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    return call_operator<OperatorMaskResult>("modelopt::attention_with_mask", call);
  }
  const AttentionArgs& args = call.args;
  const variable_list results = AttentionFunction::apply(args.q, args.k, args.v, call, /*with_mask=*/true);
  return {results[0], results[1], results[2], results[3]};
}

OperatorResult autograd_backward(const OperatorCall& call, const std::optional<at::Tensor>& grad_output,
                                 const std::optional<at::Tensor>& grad_logsumexp, const at::Tensor& output,
                                 const at::Tensor& logsumexp, const std::optional<at::Tensor>& mask,
                                 const std::array<bool, 3>& wanted) {
  const auto compute = [&] {
    return call_backward(call, grad_output, grad_logsumexp, output, logsumexp, mask, wanted);
  };
  if (!needs_autograd(grad_output.value_or(at::Tensor())) && !needs_autograd(grad_logsumexp.value_or(at::Tensor())) &&
      !needs_autograd(call)) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    return compute();
  }
  const AttentionArgs& args = call.args;
  const variable_list computed =
      NoSecondDerivative::apply(grad_output, grad_logsumexp, args.q, args.k, args.v, compute);
  std::array<at::Tensor, 3> gradients;
  for (std::size_t i = 0, next = 0; i < gradients.size(); ++i) {
    if (wanted[i]) gradients[i] = computed[next++];
  }
  return {gradients[0], gradients[1], gradients[2]};
}

TORCH_LIBRARY_IMPL(modelopt, Autograd, m) {
  m.impl("attention", TORCH_FN(OperatorKernel<&autograd>::call));
  m.impl("attention_with_mask", TORCH_FN(OperatorKernel<&autograd_with_mask>::call));
  m.impl("attention_backward", TORCH_FN(OperatorKernel<&autograd_backward>::call));
}

}  // namespace
}  // namespace modelopt::kernels
