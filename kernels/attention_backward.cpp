#include "kernels/attention_backward.h"

#include <modelopt/device_errors.h>

#include <ATen/ops/empty.h>
#include <c10/core/SymBool.h>

#include <string_view>

#include "kernels/dispatch.h"
#include "kernels/output_shapes.h"
#include "kernels/validate.h"

namespace modelopt::kernels {
namespace {

void check_tensor(std::string_view name, const at::Tensor& t, at::ScalarType dtype, at::IntArrayRef shape,
                  const at::Tensor& q) {
  MODELOPT_CHECK(t.scalar_type() == dtype, InvalidArgument, name, " has dtype ", t.scalar_type(), ", expected ", dtype);
  MODELOPT_CHECK(t.sizes() == shape, InvalidArgument, name, " has shape ", t.sizes(), ", expected ", shape);
  MODELOPT_CHECK(t.device() == q.device(), InvalidArgument, name, " is on ", t.device(), ", expected q's device ",
                 q.device());
}

void check_inputs(const AttentionArgs& args, const BackwardInputs& inputs) {
  const at::ScalarType dtype = args.q.scalar_type();
  const at::IntArrayRef rows{args.q.sizes().slice(0, 2)};
  if (inputs.grad_output) check_tensor("grad_output", *inputs.grad_output, dtype, args.q.sizes(), args.q);
  if (inputs.grad_logsumexp) {
    check_tensor("grad_logsumexp", *inputs.grad_logsumexp, logsumexp_dtype(dtype), rows, args.q);
  }
  check_tensor("output", inputs.output, dtype, args.q.sizes(), args.q);
  check_tensor("logsumexp", inputs.logsumexp, logsumexp_dtype(dtype), rows, args.q);
  if (inputs.mask) {
    check_tensor("mask", *inputs.mask, at::kByte, {rows[0], rows[1], mask_row_bytes(args)}, args.q);
  }
}

BackwardProblem make_backward_problem(const AttentionArgs& args, const BackwardInputs& inputs) {
  const auto contiguous = [](const std::optional<at::Tensor>& t) { return t ? t->contiguous() : at::Tensor(); };
  const auto gradient = [](const at::Tensor& t, bool wanted) {
    return wanted ? at::empty(t.sizes(), t.options()) : at::Tensor();
  };
  BackwardProblem problem{.forward = make_problem(args),
                          .grad_output = contiguous(inputs.grad_output),
                          .grad_logsumexp = contiguous(inputs.grad_logsumexp),
                          .grad_q = gradient(args.q, inputs.wanted[0]),
                          .grad_k = gradient(args.k, inputs.wanted[1]),
                          .grad_v = gradient(args.v, inputs.wanted[2])};
  problem.forward.output = inputs.output.contiguous();
  problem.forward.logsumexp = inputs.logsumexp.contiguous();
  problem.forward.mask = contiguous(inputs.mask);
  return problem;
}

}  // namespace

AttentionGradients run_attention_backward(const AttentionArgs& args, const BackwardInputs& inputs) {
  validate_arguments(args);
  check_inputs(args, inputs);
  const AttentionTraits traits = traits_of(args, /*want_mask=*/inputs.mask.has_value());
  const Backend& backend = select_backend(traits, args.backend);
  if (const auto reason = backend.unsupported_backward(traits)) {
    throw Unsupported(str("backend \"", backend.name(), "\" cannot run the backward of attention on ", describe(traits),
                          ": ", *reason));
  }
  return with_device_errors(
      args.q.device(), [&] { return "the backward of " + describe_call(args); },
      [&] {
        const BackwardProblem problem = make_backward_problem(args, inputs);
        if (problem.grad_output.defined() || problem.grad_logsumexp.defined()) {
          backend.backward(problem);
        } else {
          for (const at::Tensor* gradient : {&problem.grad_q, &problem.grad_k, &problem.grad_v}) {
            if (gradient->defined()) gradient->zero_();
          }
        }
        return AttentionGradients{problem.grad_q, problem.grad_k, problem.grad_v};
      });
}

bool stores_mask_for_backward(const OperatorCall& call) {
  const AttentionArgs& args = call.args;
  if (args.q.dim() != 3 || args.k.dim() != 3) return false;  // the forward says what is wrong
  const AttentionTraits traits{.device = args.q.device().type(),
                               .dtype = args.q.scalar_type(),
                               .head_dim = args.q.sym_size(2).guard_int(__FILE__, __LINE__),
                               .sparse_nm = args.sparsity_n > 0,
                               .skip_softmax = uses_skip_softmax(args),
                               .collect_stats = args.collect_stats,
                               .want_mask = true,
                               .device_index = args.q.device().index()};
  const Backend* const backend = find_backend(traits, args.backend);
  if (backend == nullptr || !backend->backward_reads_mask(traits)) return false;
  const c10::SymInt total_kv = args.k.sym_size(0);
  const c10::SymInt bound = key_length_bound(args, call.max_input_len, call.max_input_len_k, total_kv);
  const c10::SymInt bytes = args.q.sym_size(0) * args.q.sym_size(1) * mask_row_bytes(bound, total_kv);
  return bytes.sym_le(kMaxStoredMaskBytes).guard_bool(__FILE__, __LINE__);
}

}  // namespace modelopt::kernels
