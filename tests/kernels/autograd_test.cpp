// Gradients of the operator against PyTorch's own differentiation of masked softmax attention in fp64.
#include <ATen/ops/isfinite.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <catch2/catch_test_macros.hpp>

#include <cmath>
#include <limits>

#include "kernels/attention_cases.h"

using namespace modelopt;
using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;

namespace {

struct Gradients {
  at::Tensor q, k, v;
};

/// Fresh leaves with the same values and strides.
AttentionArgs with_leaves(AttentionArgs args) {
  for (at::Tensor* t : {&args.q, &args.k, &args.v}) *t = t->detach().requires_grad_(true);
  return args;
}

/// A fixed random weight for every output element, in fp64; both losses use it.
at::Tensor weights_like(const at::Tensor& t) {
  at::Tensor weights = at::zeros(t.sizes(), at::kDouble);
  double* values = weights.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < weights.numel(); ++i) values[i] = std::sin(1.0 + 0.7 * static_cast<double>(i));
  return weights;
}

/// d/d(q, k, v) of sum w o + sum w' L over the rows whose log-sum-exp is finite.
Gradients differentiate(const AttentionArgs& args, const at::Tensor& output, const at::Tensor& logsumexp) {
  const at::Tensor finite = at::where(logsumexp.isfinite(), logsumexp, at::zeros_like(logsumexp)).to(at::kDouble);
  const at::Tensor loss =
      output.to(at::kDouble).mul(weights_like(output)).sum().add(finite.mul(weights_like(logsumexp)).sum());
  if (loss.requires_grad()) loss.backward();  // an empty batch does not depend on its inputs
  for (const at::Tensor* t : {&args.q, &args.k, &args.v}) {
    if (!t->grad().defined()) t->mutable_grad() = at::zeros_like(*t);
  }
  return {args.q.grad(), args.k.grad(), args.v.grad()};
}

/// Keys and values keep their dtype's rounding: the expectation is computed in fp64 from the same stored values.
Gradients expected_gradients(AttentionArgs args, const at::Tensor& mask) {
  for (at::Tensor* t : {&args.q, &args.k, &args.v}) *t = t->detach().to(at::kDouble);
  args = with_leaves(args);
  const Threads serial(1);
  const Expected expected = attend_under_mask(args, mask);
  return differentiate(args, expected.output, expected.logsumexp);
}

void check_gradients(const AttentionArgs& call, double unit_roundoff) {
  const AttentionArgs args = with_leaves(call);
  const AttentionMaskResult actual = attention_with_mask(args);
  const Gradients gradients = differentiate(args, actual.result.output, actual.result.logsumexp);
  const Gradients expected = expected_gradients(call, unpack_mask(actual.mask, call));
  for (const auto& [name, a, e] : {std::tuple{"q", gradients.q, expected.q}, std::tuple{"k", gradients.k, expected.k},
                                   std::tuple{"v", gradients.v, expected.v}}) {
    INFO("gradient of " << name);
    CHECK(a.scalar_type() == call.q.scalar_type());
    // Both sides compute in fp64, from the same mask; what remains is the rounding to the dtype, of the result and of
    // the incoming gradient.
    const at::Tensor largest = e.numel() > 0 ? e.abs().max() : at::zeros({}, at::kDouble);
    CHECK(difference(a, e, e.abs().mul(unit_roundoff).add(largest.mul(4 * unit_roundoff)).add(1e-13)) == "");
  }
}

}  // namespace

TEST_CASE("autograd: gradients equal PyTorch's through masked softmax in fp64", "[autograd]") {
  // The gradient sees the mask and the scale, not the rule that made the mask: a few settings are enough.
  const std::vector<Setting> settings{
      {.is_causal = true},
      {.is_causal = false, .sliding_window = 5},
      {.is_causal = true, .sparsity_n = 2, .sparsity_m = 4, .num_sink_tokens = 2, .dense_window_size = 6},
      {.is_causal = false, .sparsity_n = 4, .sparsity_m = 8, .dense_window_size = 0, .lambda = 0.7, .br = 3, .bc = 8},
  };
  for (const std::string& backend : cpu_backends()) {
    for (const CaseShape& shape : standard_shapes(at::kDouble, Fill::kNormal)) {
      for (const Setting& setting : settings) {
        INFO(backend << ": " << shape << "; " << setting);
        check_gradients(on_backend(with_setting(make_args(shape), setting), backend), std::ldexp(1.0, -46));
      }
    }
  }
}

TEST_CASE("autograd: the reference's gradients of fp32 and half types are the fp64 ones in their dtype", "[autograd]") {
  const Setting setting{.sparsity_n = 2, .dense_window_size = 4};
  for (const auto& [dtype, u] :
       {std::pair{at::kFloat, std::ldexp(1.0, -24)}, std::pair{at::kHalf, std::ldexp(1.0, -11)},
        std::pair{at::kBFloat16, std::ldexp(1.0, -8)}}) {
    const CaseShape shape{.lengths = {{40, 40}, {3, 20}}, .heads = 4, .kv_heads = 2, .dtype = dtype};
    INFO(shape);
    check_gradients(on_backend(with_setting(make_args(shape), setting), "reference"), u);
  }
}

TEST_CASE("autograd: keys shared by sequences and by heads of a group accumulate", "[autograd]") {
  for (const std::string& backend : cpu_backends()) {
    AttentionArgs args = on_backend(
        make_args({.lengths = {{4, 12}, {5, 12}}, .heads = 4, .kv_heads = 2, .head_dim = 8, .dtype = at::kDouble}),
        backend);
    args.b_start_loc_k = at::tensor({0, 3}, at::kInt);  // rows 3 to 11 belong to both
    check_gradients(args, std::ldexp(1.0, -46));
  }
}

TEST_CASE("autograd: long rows go through in several chunks", "[autograd]") {
  // 600 x 8 heads x 600 keys in fp64 is beyond one chunk.
  AttentionArgs args =
      make_args({.lengths = {{600, 600}}, .heads = 8, .kv_heads = 1, .head_dim = 8, .dtype = at::kDouble});
  args.sparsity_n = 2;
  check_gradients(on_backend(args, "reference"), std::ldexp(1.0, -44));
}

TEST_CASE("autograd: the bits of the forward do not depend on requires_grad", "[autograd]") {
  for (const std::string& backend : cpu_backends()) {
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
      AttentionArgs args =
          on_backend(make_args({.lengths = {{257, 257}, {5, 90}}, .heads = 4, .kv_heads = 2, .dtype = dtype}), backend);
      args.sparsity_n = 2;
      const AttentionResult plain = attention(args);
      const AttentionResult tracked = attention(with_leaves(args));
      CHECK(tracked.output.requires_grad());
      CHECK(tracked.logsumexp.requires_grad());
      CHECK_FALSE(tracked.stats.requires_grad());
      CHECK(bitwise_difference(tracked.output, plain.output) == "");
      CHECK(bitwise_difference(tracked.logsumexp, plain.logsumexp) == "");
    }
  }
}

TEST_CASE("autograd: gradients are computed only where asked for", "[autograd]") {
  const AttentionArgs base = make_args({.lengths = {{9, 9}}, .dtype = at::kDouble});
  const Gradients all = [&] {
    const AttentionArgs args = with_leaves(base);
    attention(args).output.sum().backward();
    return Gradients{args.q.grad(), args.k.grad(), args.v.grad()};
  }();
  AttentionArgs args = base;
  args.v = args.v.detach().requires_grad_(true);
  attention(args).output.sum().backward();
  CHECK_FALSE(args.q.grad().defined());
  CHECK_FALSE(args.k.grad().defined());
  CHECK(bitwise_difference(args.v.grad(), all.v) == "");
  args = base;
  args.q = args.q.detach().requires_grad_(true);
  attention(args).output.sum().backward();
  CHECK_FALSE(args.v.grad().defined());
  CHECK(bitwise_difference(args.q.grad(), all.q) == "");
}

TEST_CASE("autograd: logsumexp alone is differentiable", "[autograd]") {
  AttentionArgs args = with_leaves(make_args({.lengths = {{1, 1}}, .heads = 1, .head_dim = 4, .dtype = at::kDouble}));
  args.softmax_scale = 0.5;
  attention(args).logsumexp.sum().backward();  // one key: L = q.k / 2
  CHECK(bitwise_difference(args.q.grad(), args.k.detach().mul(0.5)) == "");
  CHECK(bitwise_difference(args.k.grad(), args.q.detach().mul(0.5)) == "");
  CHECK(args.v.grad().eq(0).all().item<bool>());
}

TEST_CASE("autograd: the gradient of logsumexp does not depend on V, whatever V holds", "[autograd]") {
  for (const char* backend : {"cpu", "reference"}) {
    AttentionArgs args = make_args({.lengths = {{80, 80}}, .heads = 2, .kv_heads = 1, .head_dim = 16});
    args.backend = backend;
    const auto gradients = [](AttentionArgs call) {
      call = with_leaves(call);
      attention(call).logsumexp.sum().backward();
      return Gradients{call.q.grad(), call.k.grad(), call.v.grad()};
    };
    const Gradients expected = gradients(args);
    args.v = args.v.clone();
    args.v[0].fill_(std::numeric_limits<float>::infinity());
    args.v[70].fill_(std::numeric_limits<float>::quiet_NaN());
    const Gradients actual = gradients(args);
    INFO(backend);
    CHECK(bitwise_difference(actual.q, expected.q) == "");
    CHECK(bitwise_difference(actual.k, expected.k) == "");
    CHECK(actual.v.eq(0).all().item<bool>());
  }
}

TEST_CASE("autograd: a row that is NaN has NaN gradients and leaves other rows alone", "[autograd]") {
  AttentionArgs args = make_args({.lengths = {{10, 10}}, .heads = 1, .kv_heads = 1, .head_dim = 4});
  args.k[6].fill_(std::numeric_limits<float>::quiet_NaN());  // rows 6 to 9 see it
  args = with_leaves(args);
  attention(args).output.sum().backward();
  CHECK(args.q.grad().narrow(0, 0, 6).isfinite().all().item<bool>());
  CHECK(args.q.grad().narrow(0, 6, 4).isnan().all().item<bool>());
}

TEST_CASE("autograd: a second derivative is refused with a reason", "[autograd]") {
  const AttentionArgs args = with_leaves(make_args({.lengths = {{4, 4}}, .dtype = at::kDouble}));
  attention(args).output.square().sum().backward({}, /*retain_graph=*/true, /*create_graph=*/true);
  try {
    args.q.grad().sum().backward();
    FAIL("no error was thrown");
  } catch (const std::exception& error) {
    CHECK(std::string(error.what()) ==
          "second derivatives of modelopt::attention are not implemented: call backward without create_graph");
  }
  for (const at::Tensor& leaf : {args.q, args.k, args.v}) leaf.mutable_grad().reset();  // the graph holds the leaves
}
