// Gradients of the CUDA backends against PyTorch's differentiation of masked softmax attention in fp64, and what they
// promise beside it: the forward's mask, the same bits every time, exact zeros.
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <catch2/catch_test_macros.hpp>

#include <array>
#include <cmath>
#include <limits>
#include <tuple>

#include "kernels/attention_checks.h"
#include "kernels/operator_call.h"

using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;

namespace {

struct Gradients {
  at::Tensor q, k, v;
};

std::vector<std::tuple<const char*, at::Tensor, at::Tensor>> pairs_of(const Gradients& a, const Gradients& b) {
  return {{"q", a.q, b.q}, {"k", a.k, b.k}, {"v", a.v, b.v}};
}

/// Leaves with the same values and strides, in `dtype`.
AttentionArgs with_leaves(AttentionArgs args, at::ScalarType dtype) {
  for (at::Tensor* t : {&args.q, &args.k, &args.v}) *t = t->detach().to(dtype).requires_grad_(true);
  return args;
}

/// Weights of the loss, fixed, exact in every dtype.
at::Tensor weights_like(const at::Tensor& t) {
  at::Tensor weights = at::zeros(t.sizes(), at::kDouble);
  double* values = weights.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < weights.numel(); ++i) {
    values[i] = std::round(64.0 * std::sin(1.0 + 0.7 * static_cast<double>(i))) / 64.0;
  }
  return weights.to(t.device());
}

/// d/d(q, k, v) of sum w o + sum w' L over the rows whose log-sum-exp is finite.
Gradients differentiate(const AttentionArgs& args, const at::Tensor& output, const at::Tensor& logsumexp) {
  at::Tensor loss = output.to(at::kDouble).mul(weights_like(output)).sum();
  if (logsumexp.defined()) {
    const at::Tensor finite = at::where(logsumexp.isfinite(), logsumexp, at::zeros_like(logsumexp)).to(at::kDouble);
    loss = loss.add(finite.mul(weights_like(logsumexp)).sum());
  }
  if (loss.requires_grad()) loss.backward();  // an empty batch does not depend on its inputs
  for (const at::Tensor* t : {&args.q, &args.k, &args.v}) {
    if (!t->grad().defined()) t->mutable_grad() = at::zeros_like(*t);
  }
  return {args.q.grad().detach(), args.k.grad().detach(), args.v.grad().detach()};
}

/// What the operator gives for a call on its device, without the gradient of the log-sum-exp.
Gradients gradients_of(const AttentionArgs& call) {
  const AttentionArgs args = with_leaves(call, call.q.scalar_type());
  return differentiate(args, attention(args).output, {});
}

double rms_of_difference(const at::Tensor& actual, const at::Tensor& exact) {
  return std::sqrt(actual.to(at::kDouble).sub(exact).square().mean().item<double>());
}

/// Each gradient's RMS error is at most three times that of eager attention in the inputs' dtype, or the rounding of
/// the result. Returns "" or what is wrong.
std::string check_gradients(const AttentionArgs& host_call, const TestedBackend& backend) {
  const AttentionArgs call = on_device(on_backend(host_call, backend), backend.device);
  const at::ScalarType dtype = call.q.scalar_type();
  const AttentionArgs args = with_leaves(call, dtype);
  const AttentionMaskResult actual = attention_with_mask(args);
  const at::Tensor mask = unpack_mask(actual.mask.cpu(), host_call).to(backend.device);
  AttentionArgs values = call;  // on the device, with the metadata on the host
  for (const auto& [to, from] :
       {std::pair{&values.b_start_loc, &host_call.b_start_loc}, std::pair{&values.b_seq_len, &host_call.b_seq_len}}) {
    *to = *from;
  }
  values.b_start_loc_k = host_call.b_start_loc_k;
  values.b_seq_len_k = host_call.b_seq_len_k;

  // The log-sum-exp is fp32 in the operator and in eager alike: only the output tells the two apart.
  const bool with_logsumexp = dtype == at::kFloat;
  const AttentionArgs exact_args = with_leaves(values, at::kDouble);
  const Expected expected = attend_under_mask(exact_args, mask);
  const Gradients exact =
      differentiate(exact_args, expected.output, with_logsumexp ? expected.logsumexp : at::Tensor());
  const AttentionArgs eager_args = with_leaves(values, dtype);
  const Gradients eager = differentiate(eager_args, eager_in_dtype(eager_args, mask), {});
  const Gradients own =
      differentiate(args, actual.result.output, with_logsumexp ? actual.result.logsumexp : at::Tensor());

  const double u = std::ldexp(1.0, dtype == at::kFloat ? -24 : dtype == at::kHalf ? -11 : -8);
  const auto expected_pairs = pairs_of(exact, eager);
  const auto own_pairs = pairs_of(own, own);
  for (std::size_t i = 0; i < own_pairs.size(); ++i) {
    const auto& [name, gradient, same] = own_pairs[i];
    const at::Tensor& wanted = std::get<1>(expected_pairs[i]);
    if (gradient.scalar_type() != dtype) return modelopt::str("gradient of ", name, " is ", gradient.scalar_type());
    if (wanted.numel() == 0) continue;
    const double error = rms_of_difference(gradient, wanted);
    const double rms = std::sqrt(wanted.square().mean().item<double>());
    const double limit = std::max(3.0 * rms_of_difference(std::get<2>(expected_pairs[i]), wanted), 2.0 * u * rms);
    if (!(error <= limit))
      return modelopt::str("gradient of ", name, ": RMS error ", error, ", expected at most ", limit);
  }
  return "";
}

/// attention_backward with the forward's mask, or without it.
Gradients run_backward(const AttentionArgs& call, const AttentionMaskResult& forward, bool with_mask) {
  const at::Tensor grad_output = weights_like(forward.result.output).to(forward.result.output.scalar_type());
  const auto mask = with_mask ? std::optional<at::Tensor>(forward.mask) : std::nullopt;
  const auto [q, k, v] = call_operator<OperatorResult>(
      "modelopt::attention_backward", OperatorCall::from(call), std::optional<at::Tensor>(grad_output),
      std::optional<at::Tensor>(), forward.result.output, forward.result.logsumexp, mask,
      std::array<bool, 3>{true, true, true});
  return {q, k, v};
}

std::string difference_of(const Gradients& a, const Gradients& b) {
  for (const auto& [name, x, y] : pairs_of(a, b)) {
    const std::string text = bitwise_difference(x.cpu(), y.cpu());
    if (!text.empty()) return modelopt::str("gradient of ", name, " ", text);
  }
  return "";
}

const std::vector<Setting>& settings() {
  static const std::vector<Setting> all{
      {},
      {.is_causal = false},
      {.sliding_window = 70},
      {.sparsity_n = 2, .dense_window_size = 0},
      {.sparsity_n = 2, .num_sink_tokens = 5, .dense_window_size = 64},
      {.is_causal = false, .sparsity_n = 1, .dense_window_size = 30},
      {.sparsity_n = 3, .num_sink_tokens = 3, .dense_window_size = 0, .sliding_window = 150},
      {.sparsity_n = 4, .sparsity_m = 8, .dense_window_size = 40},
  };
  return all;
}

}  // namespace

TEST_CASE("backward: gradients err at most three times as much as those of eager attention", "[backward]") {
  const std::vector<Lengths> ragged{{257, 257}, {1, 1}, {0, 9}, {33, 100}, {130, 64}, {64, 300}};
  for (const TestedBackend& backend : tested_backends()) {
    std::size_t i = 0;
    for (const auto dtype : backend.dtypes) {
      for (const std::int64_t head_dim : {32, 59, 64, 80, 96, 128, 256}) {
        for (const Setting& setting : settings()) {
          const CaseShape shape = shape_for(backend, {.lengths = ragged,
                                                      .heads = i % 2 == 0 ? 4 : 2,
                                                      .kv_heads = i % 3 == 0 ? 1 : 2,
                                                      .head_dim = head_dim,
                                                      .dtype = dtype,
                                                      .storage = i % 2 == 0 ? Storage::kPoisoned : Storage::kPacked});
          ++i;
          INFO(backend << ": " << shape << "; " << setting);
          CHECK(check_gradients(with_setting(make_args(shape), setting), backend) == "");
        }
      }
    }
  }
}

TEST_CASE("backward: long rows, in many tiles", "[backward]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const std::int64_t head_dim : {64, 128}) {
      for (const Setting& setting : {Setting{}, Setting{.sparsity_n = 2}}) {
        const CaseShape shape{.lengths = {{1025, 1025}, {700, 2048}},
                              .heads = 4,
                              .kv_heads = 2,
                              .head_dim = head_dim,
                              .dtype = at::kBFloat16};
        INFO(backend << ": " << shape << "; " << setting);
        CHECK(check_gradients(with_setting(make_args(shape), setting), backend) == "");
      }
    }
  }
}

TEST_CASE("backward: the mask is the forward's bit for bit, stored or decided again", "[backward]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.dtypes) {
      for (const std::int64_t head_dim : {64, 96, 128, 256}) {
        for (const Fill fill : {Fill::kNormal, Fill::kIntegers}) {
          for (const Setting& setting : settings()) {
            if (setting.sparsity_n == 0) continue;
            const CaseShape shape = shape_for(backend, {.lengths = {{515, 515}, {70, 333}, {1, 40}},
                                                        .heads = 4,
                                                        .kv_heads = 2,
                                                        .head_dim = head_dim,
                                                        .dtype = dtype,
                                                        .fill = fill});
            INFO(backend << ": " << shape << "; " << setting);
            const AttentionArgs call =
                on_device(on_backend(with_setting(make_args(shape), setting), backend), backend.device);
            const AttentionMaskResult forward = attention_with_mask(call);
            CHECK(difference_of(run_backward(call, forward, true), run_backward(call, forward, false)) == "");
          }
        }
      }
    }
  }
}

TEST_CASE("backward: two runs give the same bits", "[backward]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.dtypes) {
      for (const Setting& setting : {Setting{}, Setting{.sparsity_n = 2}}) {
        const CaseShape shape{
            .lengths = {{1200, 1200}, {300, 500}}, .heads = 8, .kv_heads = 2, .head_dim = 128, .dtype = dtype};
        const AttentionArgs call =
            on_device(on_backend(with_setting(make_args(shape), setting), backend), backend.device);
        INFO(backend << ": " << shape << "; " << setting);
        const Gradients first = gradients_of(call);
        for (int again = 0; again < 3; ++again) CHECK(difference_of(gradients_of(call), first) == "");
      }
    }
  }
}

TEST_CASE("backward: a row's bits do not depend on the rest of the batch", "[backward]") {
  for (const TestedBackend& backend : tested_backends()) {
    const CaseShape shape{.lengths = {{200, 200}}, .heads = 4, .kv_heads = 2, .head_dim = 64, .dtype = at::kHalf};
    const AttentionArgs alone = on_device(on_backend(make_args(shape), backend), backend.device);
    AttentionArgs both = alone;
    for (at::Tensor* t : {&both.q, &both.k, &both.v}) *t = t->repeat({2, 1, 1});
    both.b_start_loc = at::tensor({200, 0}, at::kInt).to(backend.device);
    both.b_seq_len = at::tensor({200, 150}, at::kInt).to(backend.device);
    const Gradients one = gradients_of(alone), two = gradients_of(both);
    // The loss has other weights for other rows of the tensor: compare under the same ones.
    const AttentionArgs args = with_leaves(alone, at::kHalf), pair = with_leaves(both, at::kHalf);
    attention(args).output.sum().backward();
    attention(pair).output.sum().backward();
    INFO(backend);
    CHECK(bitwise_difference(pair.q.grad().narrow(0, 200, 200).cpu(), args.q.grad().cpu()) == "");
    CHECK(bitwise_difference(pair.k.grad().narrow(0, 200, 200).cpu(), args.k.grad().cpu()) == "");
    CHECK(bitwise_difference(pair.v.grad().narrow(0, 200, 200).cpu(), args.v.grad().cpu()) == "");
    CHECK(one.q.isfinite().all().item<bool>());
    CHECK(two.q.narrow(0, 150, 50).eq(0).all().item<bool>());  // rows of no sequence
  }
}

TEST_CASE("backward: keys that nobody attends have gradients of exactly 0", "[backward]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const std::int64_t head_dim : {64, 128, 256}) {
      AttentionArgs call =
          on_device(on_backend(make_args({.lengths = {{40, 400}}, .head_dim = head_dim, .dtype = at::kHalf}), backend),
                    backend.device);
      call.sliding_window = 100;  // rows are at positions 360 to 399: keys below 261 are out of sight
      const Gradients window = gradients_of(call);
      call.sliding_window = 0;
      call.sparsity_n = 1;
      call.dense_window_size = 0;
      call.is_causal = false;
      call.q.fill_(0.25);
      call.k.fill_(0.5);
      call.k.index_put_({at::tensor({3}, at::kLong).to(backend.device)}, at::full({}, 0.75, call.k.options()));
      const Gradients largest = gradients_of(call);  // of keys 0 to 3 only 3, of all other groups the first
      INFO(backend << ", head_dim " << head_dim);
      for (const at::Tensor& gradient : {window.k, window.v}) {
        CHECK(gradient.narrow(0, 0, 261).eq(0).all().item<bool>());
        CHECK(gradient.narrow(0, 261, 139).ne(0).any().item<bool>());
      }
      CHECK(largest.v.narrow(0, 0, 3).eq(0).all().item<bool>());
      CHECK(largest.v.narrow(0, 5, 3).eq(0).all().item<bool>());
      CHECK(largest.v.narrow(0, 3, 2).ne(0).any(-1).all().item<bool>());
    }
  }
}

TEST_CASE("backward: keys that sequences share add up, in a fixed order", "[backward]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const std::int64_t head_dim : {64, 256}) {
      AttentionArgs args = make_args({.lengths = {{150, 200}, {70, 200}, {201, 190}},
                                      .heads = 4,
                                      .kv_heads = 2,
                                      .head_dim = head_dim,
                                      .dtype = at::kHalf});
      args.b_start_loc_k = at::tensor({0, 3, 150}, at::kInt);
      INFO(backend << ", head_dim " << head_dim);
      CHECK(check_gradients(args, backend) == "");
      const AttentionArgs call = on_device(on_backend(args, backend), backend.device);
      CHECK(difference_of(gradients_of(call), gradients_of(call)) == "");
    }
  }
}

TEST_CASE("backward: keys are shared where only their lengths are their own", "[backward]") {
  for (const TestedBackend& backend : tested_backends()) {
    AttentionArgs args =
        make_args({.lengths = {{100, 200}, {100, 100}}, .heads = 4, .kv_heads = 2, .head_dim = 64, .dtype = at::kHalf});
    args.b_start_loc = at::tensor({0, 100}, at::kInt);
    args.b_start_loc_k.reset();  // the second sequence's keys are the first one's last hundred
    args.b_seq_len_k = at::tensor({200, 100}, at::kInt);
    INFO(backend);
    CHECK(check_gradients(args, backend) == "");
    const AttentionArgs call = on_device(on_backend(args, backend), backend.device);
    CHECK(difference_of(gradients_of(call), gradients_of(call)) == "");
  }
}

TEST_CASE("backward: decode with skipped blocks, its mask stored or found again by the same kernel", "[backward]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const std::int64_t head_dim : {64, 256}) {
      for (const char* phase : {"decode", "auto"}) {
        AttentionArgs args = make_args({.lengths = {{1, 700}, {1, 1500}},
                                        .heads = 8,
                                        .kv_heads = 2,
                                        .head_dim = head_dim,
                                        .dtype = at::kBFloat16});
        args.phase = phase;
        args.skip_softmax_threshold = 0.5;
        INFO(backend << ", head_dim " << head_dim << ", phase " << phase);
        CHECK(check_gradients(args, backend) == "");
        const AttentionArgs call = on_device(on_backend(args, backend), backend.device);
        const AttentionMaskResult forward = attention_with_mask(call);
        CHECK(difference_of(run_backward(call, forward, true), run_backward(call, forward, false)) == "");
      }
    }
  }
}

TEST_CASE("backward: only the gradients that are asked for", "[backward]") {
  for (const TestedBackend& backend : tested_backends()) {
    AttentionArgs call = on_device(
        on_backend(make_args({.lengths = {{130, 130}}, .head_dim = 64, .dtype = at::kHalf}), backend), backend.device);
    call.sparsity_n = 2;
    const Gradients all = gradients_of(call);
    INFO(backend);
    for (at::Tensor AttentionArgs::*wanted : {&AttentionArgs::q, &AttentionArgs::k, &AttentionArgs::v}) {
      AttentionArgs args = call;
      args.*wanted = (args.*wanted).detach().requires_grad_(true);
      const at::Tensor output = attention(args).output;
      output.to(at::kDouble).mul(weights_like(output)).sum().backward();
      const at::Tensor& expected = wanted == &AttentionArgs::q ? all.q : wanted == &AttentionArgs::k ? all.k : all.v;
      CHECK(bitwise_difference((args.*wanted).grad().cpu(), expected.cpu()) == "");
    }
  }
}

TEST_CASE("backward: a row of NaN has a gradient of NaN and leaves those of other rows alone", "[backward]") {
  for (const TestedBackend& backend : tested_backends()) {
    AttentionArgs args = on_device(
        on_backend(make_args({.lengths = {{100, 100}}, .head_dim = 64, .dtype = at::kHalf}), backend), backend.device);
    args.q.narrow(0, 60, 1).fill_(std::numeric_limits<float>::quiet_NaN());
    args = with_leaves(args, at::kHalf);
    attention(args).logsumexp.sum().backward();
    INFO(backend);
    CHECK(args.q.grad().narrow(0, 0, 60).isfinite().all().item<bool>());
    CHECK(args.q.grad().narrow(0, 60, 1).isnan().all().item<bool>());
    CHECK(args.q.grad().narrow(0, 61, 39).isfinite().all().item<bool>());
  }
}
