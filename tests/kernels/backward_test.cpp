// The fused backward of the CPU backend: the forward's mask to the bit, errors beside PyTorch's own computation in the
// same dtype, and bits that do not depend on threads. autograd_test.cpp compares gradients in fp64.
#include <ATen/Parallel.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <catch2/catch_test_macros.hpp>

#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "kernels/attention_backward.h"
#include "kernels/attention_cases.h"

using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;

namespace {

/// A fixed gradient for every element of a result.
at::Tensor wave_like(const at::Tensor& t) {
  at::Tensor wave = at::zeros(t.sizes(), at::kDouble);
  double* values = wave.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < wave.numel(); ++i) values[i] = std::sin(1.0 + 0.7 * static_cast<double>(i));
  return wave.to(t.scalar_type());
}

AttentionGradients backward(const AttentionArgs& args, const AttentionMaskResult& forward,
                            const std::optional<at::Tensor>& mask = std::nullopt,
                            std::array<bool, 3> wanted = {true, true, true}) {
  const auto& [output, logsumexp, stats] = forward.result;
  return run_attention_backward(args, {wave_like(output), wave_like(logsumexp), output, logsumexp, mask, wanted});
}

std::string difference_of(const AttentionGradients& a, const AttentionGradients& b) {
  if (auto text = bitwise_difference(a.q, b.q); !text.empty()) return "grad_q " + text;
  if (auto text = bitwise_difference(a.k, b.k); !text.empty()) return "grad_k " + text;
  if (auto text = bitwise_difference(a.v, b.v); !text.empty()) return "grad_v " + text;
  return "";
}

/// The gradients of sum(output * wave) that PyTorch finds when it computes masked attention in `dtype`.
AttentionGradients eager_gradients(const AttentionArgs& args, const at::Tensor& attended, at::ScalarType dtype) {
  const Threads serial(1);
  std::array<at::Tensor, 3> leaves;
  const std::array<at::Tensor, 3> inputs{args.q, args.k, args.v};
  for (std::size_t i = 0; i < 3; ++i) leaves[i] = inputs[i].detach().to(dtype, false, true).requires_grad_(true);
  at::Tensor loss = at::zeros({}, at::kDouble);
  for (const SequenceRows& rows : sequences_of(args)) {
    if (rows.q_len == 0 || rows.k_len == 0) continue;
    const std::int64_t group = args.q.size(1) / args.k.size(1);
    const auto heads = [&](const at::Tensor& t, std::int64_t start, std::int64_t len, std::int64_t repeat) {
      return t.narrow(0, start, len).transpose(0, 1).repeat_interleave(repeat, 0);
    };
    const at::Tensor hidden =
        attended.narrow(0, rows.q_start, rows.q_len).narrow(2, 0, rows.k_len).transpose(0, 1).logical_not();
    const at::Tensor empty = hidden.all(-1, /*keepdim=*/true);
    const at::Tensor scores = at::matmul(heads(leaves[0], rows.q_start, rows.q_len, 1),
                                         heads(leaves[1], rows.k_start, rows.k_len, group).transpose(1, 2))
                                  .mul(softmax_scale_of(args))
                                  .masked_fill(hidden, -std::numeric_limits<double>::infinity())
                                  .masked_fill(empty, 0.0);
    const at::Tensor weights = at::softmax(scores, -1).masked_fill(hidden, 0.0);
    const at::Tensor output = at::matmul(weights, heads(leaves[2], rows.k_start, rows.k_len, group)).transpose(0, 1);
    const at::Tensor wave = wave_like(args.q.detach().contiguous()).narrow(0, rows.q_start, rows.q_len);
    loss = loss.add(output.mul(wave.to(dtype)).to(at::kDouble).sum());
  }
  loss.backward();
  return {leaves[0].grad(), leaves[1].grad(), leaves[2].grad()};
}

struct Errors {
  double largest;
  double mean;
};

Errors errors_of(const at::Tensor& actual, const at::Tensor& exact) {
  const at::Tensor error = actual.to(at::kDouble).sub(exact).abs();
  return {error.max().item<double>(), error.mean().item<double>()};
}

/// Row i's incoming gradient is the i-th unit vector, so that grad_v[j][i] is the weight of key j for row i: the mask
/// that the backward used is where it is not 0.
at::Tensor mask_of_backward(const AttentionArgs& args, const AttentionMaskResult& forward) {
  const at::Tensor units = at::eye(args.q.size(0), args.q.size(2), args.q.options()).unsqueeze(1);
  const auto gradients = run_attention_backward(args, {.grad_output = units,
                                                       .grad_logsumexp = std::nullopt,
                                                       .output = forward.result.output,
                                                       .logsumexp = forward.result.logsumexp,
                                                       .mask = std::nullopt,
                                                       .wanted = {false, false, true}});
  return gradients.v.squeeze(1).transpose(0, 1).narrow(0, 0, args.q.size(0)).ne(0);
}

std::vector<Setting> all_settings() {
  std::vector<Setting> settings = standard_settings();
  for (const Setting& setting : skip_settings()) settings.push_back(setting);
  return settings;
}

}  // namespace

TEST_CASE("backward: the mask is the forward's, bit for bit", "[backward]") {
  // Ties everywhere (integers), duplicated keys, and scores that differ by rounding alone.
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    for (const Fill fill : {Fill::kIntegers, Fill::kNormal}) {
      const CaseShape shape{
          .lengths = {{190, 230}}, .heads = 1, .kv_heads = 1, .head_dim = 192, .dtype = dtype, .fill = fill};
      AttentionArgs args = on_backend(make_args(shape), "cpu");
      args.softmax_scale = 0.02;  // no weight underflows
      const at::Tensor copies = args.k.narrow(0, 0, 100).clone();
      args.k.narrow(0, 100, 100).copy_(copies);
      args.k.narrow(0, 200, 30).mul_(1.0 + std::ldexp(1.0, dtype == at::kBFloat16 ? -7 : -23));
      for (const Setting& setting : all_settings()) {
        INFO(dtype << ", " << (fill == Fill::kNormal ? "normal" : "integers") << ", " << setting);
        const AttentionArgs call = with_setting(args, setting);
        const AttentionMaskResult forward = attention_with_mask(call);
        CHECK(mask_of_backward(call, forward).equal(unpack_mask(forward.mask, call).squeeze(1)));
      }
    }
  }
}

TEST_CASE("backward: keys that are all equal share the weight of the kept ones", "[backward]") {
  AttentionArgs args = on_backend(make_args({.lengths = {{64, 64}}, .heads = 2, .kv_heads = 1, .head_dim = 64}), "cpu");
  args.k.copy_(args.k[0].expand_as(args.k));
  args = with_setting(args, {.is_causal = false, .sparsity_n = 1, .sparsity_m = 4, .dense_window_size = 0});
  const AttentionMaskResult forward = attention_with_mask(args);
  const AttentionGradients gradients = backward(args, forward);
  for (std::int64_t key = 0; key < 64; ++key) {
    INFO("key " << key);  // the first of each four is kept by every row
    CHECK(gradients.v[key].ne(0).any().item<bool>() == (key % 4 == 0));
    CHECK(gradients.k[key].ne(0).any().item<bool>() == (key % 4 == 0));
  }
}

TEST_CASE("backward: errors are at most three times those of PyTorch in the same dtype", "[backward]") {
  const std::vector<Setting> settings{
      {},
      {.is_causal = false, .sliding_window = 40},
      {.sparsity_n = 2, .sparsity_m = 4, .num_sink_tokens = 3, .dense_window_size = 9},
      {.sparsity_n = 1, .sparsity_m = 4, .dense_window_size = 0, .sliding_window = 70},
      {.is_causal = false, .sparsity_n = 4, .sparsity_m = 8, .dense_window_size = 5, .lambda = 0.2, .br = 16, .bc = 16},
  };
  const std::vector<std::int64_t> head_dims{32, 64, 80, 96, 128, 256};
  std::int64_t turn = 0;
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const Setting& setting : settings) {
      const CaseShape shape{.lengths = {{0, 0}, {1, 1}, {33, 33}, {257, 257}, {7, 90}},
                            .heads = 4,
                            .kv_heads = turn % 3 == 0 ? 4 : turn % 3,
                            .head_dim = head_dims[static_cast<std::size_t>(turn) % head_dims.size()],
                            .dtype = dtype};
      ++turn;
      INFO(shape << "; " << setting);
      const AttentionArgs args = on_backend(with_setting(make_args(shape), setting), "cpu");
      const AttentionMaskResult forward = attention_with_mask(args);
      const at::Tensor mask = unpack_mask(forward.mask, args);
      const at::Tensor wave = wave_like(forward.result.output);
      const AttentionGradients own = run_attention_backward(
          args,
          {wave, std::nullopt, forward.result.output, forward.result.logsumexp, std::nullopt, {true, true, true}});
      // The same incoming gradient for all: rounded to the dtype.
      const AttentionGradients plain = eager_gradients(args, mask, dtype),
                               exact = eager_gradients(args, mask, at::kDouble);
      for (const auto& [name, o, p, e] :
           {std::tuple{"q", own.q, plain.q, exact.q}, std::tuple{"k", own.k, plain.k, exact.k},
            std::tuple{"v", own.v, plain.v, exact.v}}) {
        INFO("gradient of " << name);
        const Errors ours = errors_of(o, e), theirs = errors_of(p, e);
        CHECK(ours.largest <= 3 * theirs.largest);
        CHECK(ours.mean <= 3 * theirs.mean);
      }
    }
  }
}

TEST_CASE("backward: 1025 keys in 17 tiles and a dozen tasks sum up as in fp64", "[backward]") {
  AttentionArgs args = on_backend(
      make_args({.lengths = {{1025, 1025}}, .heads = 3, .kv_heads = 1, .head_dim = 16, .dtype = at::kDouble}), "cpu");
  args = with_setting(args, {.sparsity_n = 2, .dense_window_size = 16});
  const AttentionMaskResult forward = attention_with_mask(args);
  const AttentionGradients gradients = backward(args, forward);
  const AttentionGradients expected = backward(on_backend(args, "reference"), forward, forward.mask);
  for (const auto& [a, e] :
       {std::pair{gradients.q, expected.q}, std::pair{gradients.k, expected.k}, std::pair{gradients.v, expected.v}}) {
    CHECK(difference(a, e, e.abs().max().mul(std::ldexp(1.0, -44))) == "");
  }
}

TEST_CASE("backward: neither threads nor a stored mask nor what else is wanted change a bit", "[backward]") {
  const CaseShape shape{.lengths = {{300, 300}, {1, 90}, {70, 200}}, .heads = 6, .kv_heads = 2, .head_dim = 40};
  const std::vector<Setting> settings = all_settings();
  for (std::size_t i = 0; i < settings.size(); i += 3) {
    const Setting& setting = settings[i];
    INFO(setting);
    const AttentionArgs args = on_backend(with_setting(make_args(shape), setting), "cpu");
    const AttentionMaskResult forward = attention_with_mask(args);
    const auto on = [&](int threads, const std::optional<at::Tensor>& mask) {
      const Threads scope(threads);
      return backward(args, forward, mask);
    };
    const AttentionGradients one = on(1, std::nullopt);
    for (const int threads : {2, 5}) CHECK(difference_of(on(threads, std::nullopt), one) == "");
    CHECK(difference_of(on(2, forward.mask), one) == "");
    const AttentionGradients q_only = backward(args, forward, std::nullopt, {true, false, false});
    CHECK(bitwise_difference(q_only.q, one.q) == "");
    CHECK_FALSE(q_only.k.defined());
    CHECK(bitwise_difference(backward(args, forward, std::nullopt, {false, true, false}).k, one.k) == "");
    CHECK(bitwise_difference(backward(args, forward, std::nullopt, {false, false, true}).v, one.v) == "");
  }
}

TEST_CASE("backward: keys shared by sequences add up in one order", "[backward]") {
  AttentionArgs args = on_backend(make_args({.lengths = {{90, 200}, {120, 200}}, .heads = 4, .kv_heads = 2}), "cpu");
  args.b_start_loc_k = at::tensor({0, 70}, at::kInt);  // rows 70 to 199 belong to both
  const AttentionMaskResult forward = attention_with_mask(args);
  const auto on = [&](int threads) {
    const Threads scope(threads);
    return backward(args, forward);
  };
  const AttentionGradients one = on(1);
  for (const int threads : {2, 5}) CHECK(difference_of(on(threads), one) == "");
  const AttentionGradients expected = backward(on_backend(args, "reference"), forward, forward.mask);
  for (const auto& [a, e] : {std::pair{one.k, expected.k}, std::pair{one.v, expected.v}}) {
    CHECK(difference(a, e, e.abs().max().mul(1e-5)) == "");
  }
}

TEST_CASE("backward: what is not finite reaches only those that attend to it", "[backward]") {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  AttentionArgs args =
      on_backend(make_args({.lengths = {{100, 100}}, .heads = 2, .kv_heads = 1, .head_dim = 8}), "cpu");
  args = with_setting(args, {.sparsity_n = 2, .dense_window_size = 3});
  const at::Tensor mask = unpack_mask(attention_with_mask(args).mask, args);

  SECTION("an incoming gradient") {
    const AttentionMaskResult forward = attention_with_mask(args);
    at::Tensor wave = wave_like(forward.result.output);
    wave[50].fill_(kNaN);
    const AttentionGradients gradients = run_attention_backward(
        args, {wave, std::nullopt, forward.result.output, forward.result.logsumexp, std::nullopt, {true, true, true}});
    const at::Tensor touched = mask[50].any(0);
    CHECK(touched.any().item<bool>());
    CHECK(gradients.v.isfinite().all(-1).all(-1).equal(touched.logical_not()));
    CHECK(gradients.k.isfinite().all(-1).all(-1).equal(touched.logical_not()));
    CHECK(gradients.q.isfinite().all(-1).all(-1).logical_not().sum().item<std::int64_t>() == 1);
  }
  SECTION("a value") {
    args.v[70].fill_(kNaN);
    const AttentionGradients gradients = backward(args, attention_with_mask(args));
    const at::Tensor rows = mask.select(2, 70);
    CHECK(rows.any().item<bool>());
    CHECK(gradients.q.isfinite().all(-1).equal(rows.logical_not()));
  }
  SECTION("a key") {
    args.k[99].fill_(kNaN);  // the last row alone sees it
    const AttentionGradients gradients = backward(args, attention_with_mask(args));
    CHECK(gradients.q.narrow(0, 0, 99).isfinite().all().item<bool>());
    CHECK(gradients.q[99].isnan().all().item<bool>());
  }
}

TEST_CASE("backward: without incoming gradients all are zero", "[backward]") {
  const AttentionArgs args = on_backend(make_args({.lengths = {{9, 9}}}), "cpu");
  const auto [forward, mask] = attention_with_mask(args);
  const AttentionGradients gradients = run_attention_backward(
      args, {std::nullopt, std::nullopt, forward.output, forward.logsumexp, std::nullopt, {true, true, true}});
  CHECK(gradients.q.eq(0).all().item<bool>());
  CHECK(gradients.k.eq(0).all().item<bool>());
  CHECK(gradients.v.eq(0).all().item<bool>());
}
