// attention_calibrate: dense output, and counts that are those of attention() with each threshold.
#include <modelopt/kernels/attention_calibrate.h>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/stack.h>
#include <catch2/catch_test_macros.hpp>

#include <limits>
#include <string>
#include <vector>

#include "kernels/attention_cases.h"

using namespace modelopt;
using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;

namespace {

const std::vector<double> kTrials = {0.0, 0.01, 0.3, 0.6, 0.9};

AttentionCalibrateArgs calibrate_args(const AttentionArgs& args, std::vector<double> trials) {
  return {.q = args.q,
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
          .threshold_trials = std::move(trials),
          .sliding_window = args.sliding_window,
          .skip_softmax_br = args.skip_softmax_br,
          .skip_softmax_bc = args.skip_softmax_bc,
          .backend = args.backend};
}

/// int64 [B, Hq, T, 2] from one call of attention() per trial.
at::Tensor counts_by_attention(AttentionArgs args, const std::vector<double>& trials) {
  args.collect_stats = true;
  std::vector<at::Tensor> counts;
  for (const double lambda : trials) {
    args.skip_softmax_threshold = lambda;
    counts.push_back(attention(args).stats.narrow(2, 0, 2));
  }
  return at::stack(counts, 2);
}

std::vector<Setting> block_settings() {
  return {{.br = 4, .bc = 8},
          {.br = 32, .bc = 24},
          {.is_causal = false, .br = 16, .bc = 40},
          {.sliding_window = 37, .br = 8, .bc = 16},
          {.br = 128, .bc = 128}};
}

std::string message_of(const AttentionCalibrateArgs& args) {
  try {
    (void)attention_calibrate(args);
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("calibrate: every trial counts what attention with that threshold skips, and the output is dense",
          "[calibrate]") {
  // integers: every score is exact, so that the backends also agree with one another
  const CaseShape shape{.lengths = {{150, 150}, {0, 7}, {3, 200}, {1, 130}, {20, 5}},
                        .heads = 4,
                        .kv_heads = 2,
                        .fill = Fill::kIntegers,
                        .storage = Storage::kPoisoned};
  for (const Setting& setting : block_settings()) {
    at::Tensor reference;
    for (const std::string& backend : cpu_backends()) {
      INFO(backend << ": " << setting);
      const AttentionArgs args = on_backend(with_setting(make_args(shape), setting), backend);
      const AttentionCalibrateResult result = attention_calibrate(calibrate_args(args, kTrials));
      CHECK(bitwise_difference(result.output, attention(args).output) == "");
      CHECK(result.counts.equal(counts_by_attention(args, kTrials)));
      const at::Tensor sums = result.counts.sum(at::IntArrayRef({0, 1}));
      CHECK(sums[0][1].item<std::int64_t>() == 0);  // lambda = 0
      if (setting.bc < 128) {
        CHECK(sums[4][1].item<std::int64_t>() > 0);
        CHECK(sums[4][1].item<std::int64_t>() < sums[4][0].item<std::int64_t>());
        CHECK(sums[4][1].item<std::int64_t>() > sums[1][1].item<std::int64_t>());
      }
      if (!reference.defined()) reference = result.counts;
      CHECK(result.counts.equal(reference));
    }
  }
}

TEST_CASE("calibrate: every dtype, and values without a grid", "[calibrate]") {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    const CaseShape shape{.lengths = {{100, 164}, {33, 33}}, .heads = 2, .kv_heads = 1, .head_dim = 20, .dtype = dtype};
    const AttentionArgs args = on_backend(with_setting(make_args(shape), {.br = 16, .bc = 8}), "cpu");
    const AttentionCalibrateResult result = attention_calibrate(calibrate_args(args, kTrials));
    INFO(dtype);
    CHECK(result.output.scalar_type() == dtype);
    CHECK(bitwise_difference(result.output, attention(args).output) == "");
    CHECK(result.counts.equal(counts_by_attention(args, kTrials)));
    CHECK(result.counts.select(3, 1).sum().item<std::int64_t>() > 0);
  }
}

TEST_CASE("calibrate: counts do not depend on threads, order of trials, or chunks of whole query blocks",
          "[calibrate]") {
  const CaseShape shape{.lengths = {{192, 192}}, .heads = 4, .kv_heads = 2};
  const AttentionArgs args = on_backend(with_setting(make_args(shape), {.br = 32, .bc = 16}), "cpu");
  const at::Tensor counts = attention_calibrate(calibrate_args(args, kTrials)).counts;
  {
    const Threads one(1);
    CHECK(attention_calibrate(calibrate_args(args, kTrials)).counts.equal(counts));
  }
  CHECK(attention_calibrate(calibrate_args(args, {0.9, 0.6, 0.3, 0.01, 0.0})).counts.flip(2).equal(counts));

  at::Tensor chunked = counts.clone().zero_();
  for (std::int64_t begin = 0; begin < 192; begin += 64) {
    AttentionArgs chunk = args;
    chunk.q = args.q.narrow(0, begin, 64);
    chunk.b_seq_len = at::full_like(args.b_seq_len, 64);
    chunk.b_start_loc_k = args.b_start_loc;
    chunk.b_seq_len_k = at::full_like(args.b_seq_len, begin + 64);
    chunked += attention_calibrate(calibrate_args(chunk, kTrials)).counts;
  }
  CHECK(chunked.equal(counts));
}

TEST_CASE("calibrate: rows that see NaN or +inf are NaN and count like attention", "[calibrate]") {
  for (const std::string& backend : cpu_backends()) {
    INFO(backend);
    AttentionArgs args = on_backend(
        with_setting(make_args({.lengths = {{64, 64}}, .fill = Fill::kIntegers}), {.br = 8, .bc = 8}), backend);
    args.k[10][0].fill_(std::numeric_limits<float>::quiet_NaN());
    args.k[40][0].fill_(std::numeric_limits<float>::infinity());
    const AttentionCalibrateResult result = attention_calibrate(calibrate_args(args, kTrials));
    CHECK(bitwise_difference(result.output, attention(args).output) == "");
    CHECK(result.counts.equal(counts_by_attention(args, kTrials)));
  }
}

TEST_CASE("calibrate: what it refuses", "[calibrate]") {
  const AttentionArgs args = make_args({.lengths = {{5, 5}}});
  CHECK(message_of(calibrate_args(args, {})) == "threshold_trials is empty, expected at least one threshold");
  CHECK(message_of(calibrate_args(args, {0.5, 1.0})) == "threshold_trials[1] is 1, expected 0 <= lambda < 1 (in fp32)");
  CHECK(message_of(calibrate_args(args, {-0.1})) == "threshold_trials[0] is -0.1, expected 0 <= lambda < 1 (in fp32)");
  AttentionCalibrateArgs wrong = calibrate_args(args, kTrials);
  wrong.skip_softmax_bc = 12;
  CHECK(message_of(wrong) == "skip_softmax_bc is 12, expected a positive multiple of 8");
  wrong = calibrate_args(args, kTrials);
  wrong.k = at::Tensor();
  CHECK(message_of(wrong) == "k is an undefined tensor, expected a defined one");
  wrong = calibrate_args(args, kTrials);
  wrong.backend = "tpu";
  CHECK(message_of(wrong).starts_with("backend is \"tpu\", expected one of auto, "));
  wrong.backend = "sm80";
  try {
    (void)attention_calibrate(wrong);
    FAIL("no error");
  } catch (const Unsupported& error) {
    CHECK(std::string(error.what()).starts_with("backend \"sm80\" cannot run attention_calibrate on CPU tensors of "));
  }
}

TEST_CASE("calibrate: the gradient is that of dense attention", "[calibrate]") {
  AttentionArgs args = make_args({.lengths = {{20, 20}}});
  args.q.requires_grad_(true);
  const at::Tensor output = attention_calibrate(calibrate_args(args, kTrials)).output;
  REQUIRE(output.requires_grad());
  output.square().sum().backward();
  const at::Tensor gradient = args.q.grad().clone();
  args.q.mutable_grad().reset();
  attention(args).output.square().sum().backward();
  CHECK(bitwise_difference(gradient, args.q.grad()) == "");
  CHECK(gradient.abs().sum().item<float>() > 0);

  const at::NoGradGuard no_grad;
  CHECK_FALSE(attention_calibrate(calibrate_args(args, kTrials)).output.requires_grad());
}
