// attention_calibrate: dense output, and counts that are those of attention() with each threshold.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>
#include <catch2/catch_test_macros.hpp>

#include <limits>
#include <string>
#include <vector>

#include "kernels/calibrate_call.h"

using namespace modelopt;
using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;

namespace {

const std::vector<double> kTrials = {0.0, 0.01, 0.3, 0.6, 0.9};

/// int64 [B, Hq, T, 2] from one call of attention() per trial.
at::Tensor counts_by_attention(AttentionArgs args, const std::vector<double>& trials) {
  args.collect_stats = true;
  std::vector<at::Tensor> counts;
  for (const double lambda : trials) {
    args.skip_softmax_threshold = lambda;
    counts.push_back(run(args).stats.narrow(2, 0, 2));
  }
  return at::stack(counts, 2);
}

/// The same on the backend whose scores are counted: a backend that skips blocks of one size only takes the counts of
/// one that skips all.
at::Tensor counts_by_skipping(const AttentionArgs& args, const TestedBackend& backend) {
  return counts_by_attention(on_backend(args, backend.skips ? backend : backends_that_skip().front()), kTrials);
}

at::Tensor reference_counts(const AttentionArgs& args, const std::vector<double>& trials) {
  return attention_calibrate(calibrate_args(on_backend(args, "reference"), trials)).counts;
}

std::vector<Setting> block_settings() {
  return {{.br = 4, .bc = 8},
          {.br = 32, .bc = 24},
          {.is_causal = false, .br = 16, .bc = 40},
          {.sliding_window = 37, .br = 8, .bc = 16},
          {.br = 1, .bc = 256},
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

/// What holds where every score is exact: counts are those of attention() and of the reference, whatever the backend.
void check_exact_counts(const AttentionArgs& args, const TestedBackend& backend) {
  const AttentionCalibrateResult result = run_calibrate(args, kTrials);
  CHECK(bitwise_difference(result.output, run(args).output) == "");
  CHECK(result.counts.equal(reference_counts(args, kTrials)));
  CHECK(result.counts.equal(counts_by_skipping(args, backend)));
  const bool default_blocks = args.skip_softmax_br == 128 && args.skip_softmax_bc == 128;
  if (default_blocks && !backend.skips) CHECK(result.counts.equal(counts_by_attention(args, kTrials)));
  const at::Tensor sums = result.counts.sum(at::IntArrayRef({0, 1}));
  CHECK(sums[0][1].item<std::int64_t>() == 0);  // lambda = 0
  if (args.skip_softmax_bc < 128) {
    CHECK(sums[4][1].item<std::int64_t>() > 0);
    CHECK(sums[4][1].item<std::int64_t>() < sums[4][0].item<std::int64_t>());
    CHECK(sums[4][1].item<std::int64_t>() > sums[1][1].item<std::int64_t>());
  }
}

}  // namespace

TEST_CASE("calibrate: every trial counts what attention with that threshold skips, and the output is dense",
          "[calibrate]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.those_of({at::kFloat, at::kBFloat16})) {
      const CaseShape shape = shape_for(backend, {.lengths = {{150, 150}, {0, 7}, {3, 200}, {1, 130}, {20, 5}},
                                                  .heads = 4,
                                                  .kv_heads = 2,
                                                  .dtype = dtype,
                                                  .fill = Fill::kIntegers,  // every score is exact
                                                  .storage = Storage::kPoisoned});
      for (const Setting& setting : block_settings()) {
        INFO(backend << ": " << shape << "; " << setting);
        check_exact_counts(on_backend(with_setting(make_args(shape), setting), backend), backend);
      }
    }
  }
}

TEST_CASE("calibrate: decode over caches of all lengths, also without any key", "[calibrate]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.those_of({at::kFloat, at::kBFloat16})) {
      const CaseShape shape = shape_for(backend, {.lengths = {{1, 1}, {1, 700}, {1, 0}, {1, 257}, {0, 30}},
                                                  .heads = 4,
                                                  .kv_heads = 2,
                                                  .head_dim = 64,
                                                  .dtype = dtype,
                                                  .fill = Fill::kIntegers});
      for (const Setting& setting : {Setting{.bc = 40}, Setting{.bc = 128}, Setting{.sliding_window = 300, .bc = 8}}) {
        INFO(backend << ": " << shape << "; " << setting);
        check_exact_counts(on_backend(with_setting(make_args(shape), setting), backend), backend);
      }
    }
  }
}

TEST_CASE("calibrate: every dtype, and values without a grid", "[calibrate]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.dtypes) {
      const CaseShape shape = shape_for(
          backend, {.lengths = {{100, 164}, {33, 33}}, .heads = 2, .kv_heads = 1, .head_dim = 20, .dtype = dtype});
      const AttentionArgs args = on_backend(with_setting(make_args(shape), {.br = 16, .bc = 8}), backend);
      const AttentionCalibrateResult result = run_calibrate(args, kTrials);
      INFO(backend << ", " << dtype);
      CHECK(result.output.scalar_type() == dtype);
      CHECK(bitwise_difference(result.output, run(args).output) == "");
      CHECK(result.counts.equal(counts_by_skipping(args, backend)));
      const at::Tensor largest = result.counts.select(2, 4).sum(at::IntArrayRef({0, 1}));
      CHECK(largest[1].item<std::int64_t>() > 0);
      CHECK(largest[1].item<std::int64_t>() < largest[0].item<std::int64_t>());
    }
  }
}

TEST_CASE("calibrate: counts do not depend on threads, order of trials, or chunks of whole query blocks",
          "[calibrate]") {
  for (const TestedBackend& backend : tested_backends()) {
    INFO(backend);
    const CaseShape shape = shape_for(backend, {.lengths = {{192, 192}}, .heads = 4, .kv_heads = 2});
    const AttentionArgs args = on_backend(with_setting(make_args(shape), {.br = 32, .bc = 16}), backend);
    const at::Tensor counts = run_calibrate(args, kTrials).counts;
    {
      const Threads one(1);
      CHECK(run_calibrate(args, kTrials).counts.equal(counts));
    }
    CHECK(run_calibrate(args, {0.9, 0.6, 0.3, 0.01, 0.0}).counts.flip(2).equal(counts));

    at::Tensor chunked = at::zeros_like(counts);
    for (std::int64_t begin = 0; begin < 192; begin += 64) {
      AttentionArgs chunk = args;
      chunk.q = args.q.narrow(0, begin, 64);
      chunk.max_input_len = 64;
      chunk.b_seq_len = at::full_like(args.b_seq_len, 64);
      chunk.b_start_loc_k = args.b_start_loc;
      chunk.b_seq_len_k = at::full_like(args.b_seq_len, begin + 64);
      chunked += run_calibrate(chunk, kTrials).counts;
    }
    CHECK(chunked.equal(counts));
  }
}

TEST_CASE("calibrate: as many trials as are wanted", "[calibrate]") {
  std::vector<double> trials;
  for (int i = 0; i < 150; ++i) trials.push_back(i / 150.0);
  for (const TestedBackend& backend : tested_backends()) {
    INFO(backend);
    const CaseShape shape = shape_for(backend, {.lengths = {{40, 40}}, .fill = Fill::kIntegers});
    const AttentionArgs args = on_backend(with_setting(make_args(shape), {.br = 4, .bc = 8}), backend);
    CHECK(run_calibrate(args, trials).counts.equal(reference_counts(args, trials)));
  }
}

TEST_CASE("calibrate: rows that see NaN or +inf are NaN and count like attention", "[calibrate]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.those_of({at::kFloat, at::kBFloat16})) {
      INFO(backend << ", " << dtype);
      const CaseShape shape = shape_for(backend, {.lengths = {{64, 64}}, .dtype = dtype, .fill = Fill::kIntegers});
      AttentionArgs args = on_backend(with_setting(make_args(shape), {.br = 8, .bc = 8}), backend);
      args.k[10][0].fill_(std::numeric_limits<float>::quiet_NaN());
      args.k.narrow(0, 24, 8).fill_(std::numeric_limits<float>::quiet_NaN());  // all of a block
      args.k[40][0].fill_(std::numeric_limits<float>::infinity());
      const AttentionCalibrateResult result = run_calibrate(args, kTrials);
      CHECK(bitwise_difference(result.output, run(args).output) == "");
      CHECK(result.counts.equal(reference_counts(args, kTrials)));
      CHECK(result.counts.equal(counts_by_skipping(args, backend)));
    }
  }
}

TEST_CASE("calibrate: without sequences, rows or keys there is nothing to count", "[calibrate]") {
  for (const TestedBackend& backend : tested_backends()) {
    const std::vector<std::vector<Lengths>> batches{{}, {{0, 0}}, {{5, 0}, {0, 0}}, {{0, 9}, {0, 1}}};
    for (const std::vector<Lengths>& lengths : batches) {
      const CaseShape shape = shape_for(backend, {.lengths = lengths});
      INFO(backend << ": " << shape);
      const AttentionArgs args = on_backend(make_args(shape), backend);
      const AttentionCalibrateResult result = run_calibrate(args, kTrials);
      CHECK(bitwise_difference(result.output, run(args).output) == "");
      CHECK(result.counts.sizes() == at::IntArrayRef({static_cast<std::int64_t>(lengths.size()), 2, 5, 2}));
      CHECK_FALSE(result.counts.any().item<bool>());
    }
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
  for (const TestedBackend& backend : tested_backends()) {
    INFO(backend);
    const CaseShape shape = shape_for(backend, {.lengths = {{20, 20}}});
    AttentionArgs args = on_device(on_backend(make_args(shape), backend), backend.device);
    args.q.requires_grad_(true);
    const at::Tensor output = attention_calibrate(calibrate_args(args, kTrials)).output;
    REQUIRE(output.requires_grad());
    output.square().sum().backward();
    const at::Tensor gradient = args.q.grad().cpu();
    args.q.mutable_grad().reset();
    attention(args).output.square().sum().backward();
    CHECK(bitwise_difference(gradient, args.q.grad().cpu()) == "");
    CHECK(gradient.abs().sum().item<float>() > 0);

    const at::NoGradGuard no_grad;
    CHECK_FALSE(attention_calibrate(calibrate_args(args, kTrials)).output.requires_grad());
  }
}
