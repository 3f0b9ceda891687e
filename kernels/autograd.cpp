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

std::optional<at::Tensor> optional_of(const at::Tensor& t) {
  return t.defined() ? std::optional<at::Tensor>(t) : std::nullopt;
}

using BackwardSignature = decltype(attention_backward);

OperatorResult call_backward(const std::optional<at::Tensor>& grad_output,
                             const std::optional<at::Tensor>& grad_logsumexp, const at::Tensor& q, const at::Tensor& k,
                             const at::Tensor& v, const at::Tensor& logsumexp, const at::Tensor& mask,
                             const at::Tensor& b_start_loc, const at::Tensor& b_seq_len,
                             const std::optional<at::Tensor>& b_start_loc_k,
                             const std::optional<at::Tensor>& b_seq_len_k, std::optional<double> softmax_scale,
                             std::array<bool, 3> grad_mask) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("modelopt::attention_backward", "").typed<BackwardSignature>();
  return op.call(grad_output, grad_logsumexp, q, k, v, logsumexp, mask, b_start_loc, b_seq_len, b_start_loc_k,
                 b_seq_len_k, softmax_scale, grad_mask);
}

/// q, k and v appear beside the call that holds them because autograd tracks tensor arguments only.
struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const OperatorCall& call) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto [output, logsumexp, stats, mask] =
        call_operator<OperatorMaskResult>("modelopt::attention_with_mask", call);
    const AttentionArgs& args = call.args;
    ctx->save_for_backward({q, k, v, logsumexp, mask, args.b_start_loc, args.b_seq_len,
                            args.b_start_loc_k.value_or(at::Tensor()), args.b_seq_len_k.value_or(at::Tensor())});
    ctx->saved_data["softmax_scale"] = args.softmax_scale;
    ctx->mark_non_differentiable({stats, mask});
    ctx->set_materialize_grads(false);
    return {output, logsumexp, stats, mask};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const variable_list saved = ctx->get_saved_variables();
    const auto scale = ctx->saved_data["softmax_scale"].toOptional<double>();
    const std::array<bool, 3> wanted{ctx->needs_input_grad(0), ctx->needs_input_grad(1), ctx->needs_input_grad(2)};
    if (!gradients[0].defined() && !gradients[1].defined()) return variable_list(4);
    auto [grad_q, grad_k, grad_v] =
        call_backward(optional_of(gradients[0]), optional_of(gradients[1]), saved[0], saved[1], saved[2], saved[3],
                      saved[4], saved[5], saved[6], optional_of(saved[7]), optional_of(saved[8]), scale, wanted);
    return {grad_q, grad_k, grad_v, at::Tensor()};
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
  const AttentionArgs& args = call.args;
  if (!needs_autograd(args.q) && !needs_autograd(args.k) && !needs_autograd(args.v)) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    return call_operator<OperatorResult>("modelopt::attention", call);
  }
  const variable_list results = AttentionFunction::apply(args.q, args.k, args.v, call);
  return {results[0], results[1], results[2]};
}

OperatorMaskResult autograd_with_mask(const OperatorCall& call) {
  const AttentionArgs& args = call.args;
  if (!needs_autograd(args.q) && !needs_autograd(args.k) && !needs_autograd(args.v)) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    return call_operator<OperatorMaskResult>("modelopt::attention_with_mask", call);
  }
  const variable_list results = AttentionFunction::apply(args.q, args.k, args.v, call);
  return {results[0], results[1], results[2], results[3]};
}

OperatorResult autograd_backward(const std::optional<at::Tensor>& grad_output,
                                 const std::optional<at::Tensor>& grad_logsumexp, const at::Tensor& q,
                                 const at::Tensor& k, const at::Tensor& v, const at::Tensor& logsumexp,
                                 const at::Tensor& mask, const at::Tensor& b_start_loc, const at::Tensor& b_seq_len,
                                 const std::optional<at::Tensor>& b_start_loc_k,
                                 const std::optional<at::Tensor>& b_seq_len_k, std::optional<double> softmax_scale,
                                 std::array<bool, 3> grad_mask) {
  const at::Tensor grad_out = grad_output.value_or(at::Tensor());
  const at::Tensor grad_lse = grad_logsumexp.value_or(at::Tensor());
  const auto compute = [&] {
    return call_backward(grad_output, grad_logsumexp, q, k, v, logsumexp, mask, b_start_loc, b_seq_len, b_start_loc_k,
                         b_seq_len_k, softmax_scale, grad_mask);
  };
  if (!needs_autograd(grad_out) && !needs_autograd(grad_lse) && !needs_autograd(q) && !needs_autograd(k) &&
      !needs_autograd(v)) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    return compute();
  }
  const variable_list wanted = NoSecondDerivative::apply(grad_output, grad_logsumexp, q, k, v, compute);
  std::array<at::Tensor, 3> gradients;
  for (std::size_t i = 0, next = 0; i < gradients.size(); ++i) {
    if (grad_mask[i]) gradients[i] = wanted[next++];
  }
  return {gradients[0], gradients[1], gradients[2]};
}

TORCH_LIBRARY_IMPL(modelopt, Autograd, m) {
  m.impl("attention", TORCH_FN(OperatorKernel<&autograd>::call));
  m.impl("attention_with_mask", TORCH_FN(OperatorKernel<&autograd_with_mask>::call));
  m.impl("attention_backward", TORCH_FN(autograd_backward));
}

}  // namespace
}  // namespace modelopt::kernels
