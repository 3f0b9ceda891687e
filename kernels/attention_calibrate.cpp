// The operator attention_calibrate, whole: schema, kernels for each dispatch key, and the C++ entries.
#include <modelopt/device_errors.h>
#include <modelopt/kernels/attention_calibrate.h>

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/core/SymInt.h>
#include <torch/library.h>

#include <utility>

#include "kernels/dispatch.h"
#include "kernels/operator_call.h"
#include "kernels/output_shapes.h"
#include "kernels/validate.h"

namespace modelopt::kernels {
namespace {

/// (output, counts)
using CalibrateResult = std::tuple<at::Tensor, at::Tensor>;

/// A dense call of attention with the block size of skip-softmax, and the trials.
struct CalibrateCall {
  OperatorCall dense;
  std::vector<double> trials;
};

/// Wraps Run(const CalibrateCall&) into a function of the registered signature.
template <auto Run>
CalibrateResult kernel(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& b_start_loc,
                       const at::Tensor& b_seq_len, c10::SymInt max_input_len, bool is_causal,
                       std::optional<double> softmax_scale, const std::optional<at::Tensor>& b_start_loc_k,
                       const std::optional<at::Tensor>& b_seq_len_k, std::optional<c10::SymInt> max_input_len_k,
                       at::ArrayRef<double> threshold_trials, std::int64_t sliding_window, std::int64_t skip_softmax_br,
                       std::int64_t skip_softmax_bc, std::string_view backend) {
  CalibrateCall call;
  call.dense.args = AttentionArgs{.q = q,
                                  .k = k,
                                  .v = v,
                                  .b_start_loc = b_start_loc,
                                  .b_seq_len = b_seq_len,
                                  .is_causal = is_causal,
                                  .softmax_scale = softmax_scale,
                                  .b_start_loc_k = b_start_loc_k,
                                  .b_seq_len_k = b_seq_len_k,
                                  .sliding_window = sliding_window,
                                  .skip_softmax_br = skip_softmax_br,
                                  .skip_softmax_bc = skip_softmax_bc,
                                  .backend = std::string(backend)};
  call.dense.max_input_len = std::move(max_input_len);
  call.dense.max_input_len_k = std::move(max_input_len_k);
  call.trials = threshold_trials.vec();
  return Run(call);
}

CalibrateResult call_operator(const CalibrateCall& call) {
  constexpr CalibrateResult (*kNone)(const CalibrateCall&) = nullptr;
  using Signature = decltype(kernel<kNone>);
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("modelopt::attention_calibrate", "").typed<Signature>();
  const AttentionArgs& a = call.dense.args;
  return op.call(a.q, a.k, a.v, a.b_start_loc, a.b_seq_len, call.dense.max_input_len, a.is_causal, a.softmax_scale,
                 a.b_start_loc_k, a.b_seq_len_k, call.dense.max_input_len_k, call.trials, a.sliding_window,
                 a.skip_softmax_br, a.skip_softmax_bc, a.backend);
}

CalibrateResult run(const CalibrateCall& call) {
  const AttentionArgs args = call.dense.resolve_lengths();
  validate_arguments(args);
  validate_trials(call.trials);
  const Backend& backend = select_calibrate_backend(traits_of(args, /*want_mask=*/false), args.backend);
  return with_device_errors(
      args.q.device(), [&] { return "counting blocks in " + describe_call(args); },
      [&] {
        AttentionProblem problem = make_problem(args);
        const at::TensorOptions options = args.q.options();
        problem.output = at::empty(args.q.sizes(), options);
        problem.logsumexp =
            at::empty({args.q.size(0), args.q.size(1)}, options.dtype(logsumexp_dtype(args.q.scalar_type())));
        const at::Tensor counts =
            at::empty({args.b_seq_len.size(0), args.q.size(1), static_cast<std::int64_t>(call.trials.size()), 2},
                      options.dtype(at::kLong));
        backend.calibrate(problem, call.trials, counts);
        return CalibrateResult{problem.output, counts};
      });
}

CalibrateResult meta(const CalibrateCall& call) {
  const AttentionArgs& args = call.dense.args;
  validate_arguments(args);
  validate_trials(call.trials);
  const at::TensorOptions options = args.q.options();
  return {at::empty_symint(args.q.sym_sizes(), options),
          at::empty_symint(
              {args.b_seq_len.sym_size(0), args.q.sym_size(1), static_cast<std::int64_t>(call.trials.size()), 2},
              options.dtype(at::kLong))};
}

/// Where a gradient is wanted the output is taken from attention(), which has one: the bits are the same.
CalibrateResult autograd(const CalibrateCall& call) {
  const AttentionArgs& args = call.dense.args;
  const auto needs_autograd = [](const at::Tensor& t) {
    return t.defined() && ((at::GradMode::is_enabled() && t.requires_grad()) || t._fw_grad(/*level=*/0).defined());
  };
  const auto below = [&] {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    return call_operator(call);
  };
  auto [output, counts] = below();
  if (needs_autograd(args.q) || needs_autograd(args.k) || needs_autograd(args.v))
    output = std::get<0>(kernels::call_operator<OperatorResult>("modelopt::attention", call.dense));
  return {output, counts};
}

TORCH_LIBRARY_FRAGMENT(modelopt, m) {
  m.def(
      "attention_calibrate(Tensor q, Tensor k, Tensor v, Tensor b_start_loc, Tensor b_seq_len, SymInt max_input_len, "
      "bool is_causal=True, float? softmax_scale=None, "
      "Tensor? b_start_loc_k=None, Tensor? b_seq_len_k=None, SymInt? max_input_len_k=None, *, "
      "float[] threshold_trials, int sliding_window=0, int skip_softmax_br=128, int skip_softmax_bc=128, "
      "str backend=\"auto\") -> (Tensor output, Tensor counts)");
}

// Both devices: which backend runs, or why none does, is the dispatch's answer.
TORCH_LIBRARY_IMPL(modelopt, CPU, m) { m.impl("attention_calibrate", TORCH_FN(kernel<&run>)); }
TORCH_LIBRARY_IMPL(modelopt, CUDA, m) { m.impl("attention_calibrate", TORCH_FN(kernel<&run>)); }
TORCH_LIBRARY_IMPL(modelopt, Meta, m) { m.impl("attention_calibrate", TORCH_FN(kernel<&meta>)); }
TORCH_LIBRARY_IMPL(modelopt, Autograd, m) { m.impl("attention_calibrate", TORCH_FN(kernel<&autograd>)); }

}  // namespace

AttentionCalibrateResult attention_calibrate(const AttentionCalibrateArgs& args) {
  const AttentionArgs dense{.q = args.q,
                            .k = args.k,
                            .v = args.v,
                            .b_start_loc = args.b_start_loc,
                            .b_seq_len = args.b_seq_len,
                            .max_input_len = args.max_input_len,
                            .is_causal = args.is_causal,
                            .softmax_scale = args.softmax_scale,
                            .b_start_loc_k = args.b_start_loc_k,
                            .b_seq_len_k = args.b_seq_len_k,
                            .max_input_len_k = args.max_input_len_k,
                            .sliding_window = args.sliding_window,
                            .skip_softmax_br = args.skip_softmax_br,
                            .skip_softmax_bc = args.skip_softmax_bc,
                            .backend = args.backend};
  validate_defined(dense);
  auto [output, counts] = call_operator({OperatorCall::from(dense), args.threshold_trials});
  return {output, counts};
}

std::tuple<at::Tensor, at::Tensor> attention_calibrate(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& b_start_loc,
    const at::Tensor& b_seq_len, std::int64_t max_input_len, const std::vector<double>& threshold_trials,
    bool is_causal, std::optional<double> softmax_scale, const std::optional<at::Tensor>& b_start_loc_k,
    const std::optional<at::Tensor>& b_seq_len_k, std::optional<std::int64_t> max_input_len_k,
    std::int64_t sliding_window, std::int64_t skip_softmax_br, std::int64_t skip_softmax_bc,
    const std::string& backend) {
  const AttentionCalibrateResult result = attention_calibrate({.q = q,
                                                               .k = k,
                                                               .v = v,
                                                               .b_start_loc = b_start_loc,
                                                               .b_seq_len = b_seq_len,
                                                               .max_input_len = max_input_len,
                                                               .is_causal = is_causal,
                                                               .softmax_scale = softmax_scale,
                                                               .b_start_loc_k = b_start_loc_k,
                                                               .b_seq_len_k = b_seq_len_k,
                                                               .max_input_len_k = max_input_len_k,
                                                               .threshold_trials = threshold_trials,
                                                               .sliding_window = sliding_window,
                                                               .skip_softmax_br = skip_softmax_br,
                                                               .skip_softmax_bc = skip_softmax_bc,
                                                               .backend = backend});
  return {result.output, result.counts};
}

}  // namespace modelopt::kernels
