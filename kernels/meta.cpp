// Meta kernels: shapes and dtypes without data, for torch.compile and shape inference. Lengths may be symbolic and are
// not guarded on: one compiled graph serves all of them.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <array>

#include "kernels/operator_call.h"
#include "kernels/output_shapes.h"
#include "kernels/validate.h"

namespace modelopt::kernels {
namespace {

OperatorResult meta(const OperatorCall& call) {
  const AttentionArgs& args = call.args;
  validate_arguments(args);
  const at::TensorOptions options = args.q.options();
  const c10::SymInt total_q = args.q.sym_size(0);
  const c10::SymInt heads = args.q.sym_size(1);
  const at::TensorOptions stats_options = options.dtype(at::kLong);
  return {at::empty_symint({total_q, heads, args.q.sym_size(2)}, options),
          at::empty_symint({total_q, heads}, options.dtype(logsumexp_dtype(args.q.scalar_type()))),
          args.collect_stats ? at::empty_symint({args.b_seq_len.sym_size(0), heads, 4}, stats_options)
                             : at::empty({0}, stats_options)};
}

OperatorMaskResult meta_with_mask(const OperatorCall& call) {
  const auto [output, logsumexp, stats] = meta(call);
  const AttentionArgs& args = call.args;
  const c10::SymInt total_kv = args.k.sym_size(0);
  const c10::SymInt bound = key_length_bound(args, call.max_input_len, call.max_input_len_k, total_kv);
  const at::Tensor mask = at::empty_symint({args.q.sym_size(0), args.q.sym_size(1), mask_row_bytes(bound, total_kv)},
                                           args.q.options().dtype(at::kByte));
  return {output, logsumexp, stats, mask};
}

OperatorResult meta_backward(const OperatorCall& call, const std::optional<at::Tensor>& /*grad_output*/,
                             const std::optional<at::Tensor>& /*grad_logsumexp*/, const at::Tensor& /*output*/,
                             const at::Tensor& /*logsumexp*/, const std::optional<at::Tensor>& /*mask*/,
                             const std::array<bool, 3>& wanted) {
  const AttentionArgs& args = call.args;
  validate_arguments(args);
  const auto like = [](const at::Tensor& t, bool is_wanted) {
    return is_wanted ? at::empty_symint(t.sym_sizes(), t.options()) : at::Tensor();
  };
  return {like(args.q, wanted[0]), like(args.k, wanted[1]), like(args.v, wanted[2])};
}

TORCH_LIBRARY_IMPL(modelopt, Meta, m) {
  m.impl("attention", TORCH_FN(OperatorKernel<&meta>::call));
  m.impl("attention_with_mask", TORCH_FN(OperatorKernel<&meta_with_mask>::call));
  m.impl("attention_backward", TORCH_FN(OperatorKernel<&meta_backward>::call));
}

}  // namespace
}  // namespace modelopt::kernels
