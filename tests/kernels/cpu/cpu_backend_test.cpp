// What the CPU backend promises beyond agreeing with the reference: bits that depend on a row and its keys alone,
// bounded memory, and errors no larger than those of the plain computation.
#include <malloc.h>

#include <ATen/Parallel.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>

#include <catch2/catch_test_macros.hpp>

#include <cmath>
#include <fstream>
#include <limits>
#include <string>

#include "kernels/attention_cases.h"

using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;

namespace {

AttentionMaskResult run_on(int threads, const AttentionArgs& args) {
  const Threads scope(threads);
  return attention_with_mask(args);
}

std::string difference_of(const AttentionMaskResult& actual, const AttentionMaskResult& expected) {
  if (auto text = bitwise_difference(actual.result.output, expected.result.output); !text.empty())
    return "output " + text;
  if (auto text = bitwise_difference(actual.result.logsumexp, expected.result.logsumexp); !text.empty())
    return "logsumexp " + text;
  if (auto text = bitwise_difference(actual.result.stats, expected.result.stats); !text.empty()) return "stats " + text;
  return bitwise_difference(actual.mask, expected.mask);
}

/// Every setting in use: N:M with sinks and windows, skip-softmax, both.
std::vector<Setting> all_settings() {
  std::vector<Setting> settings = standard_settings();
  for (const Setting& setting : skip_settings()) settings.push_back(setting);
  return settings;
}

/// Rows [begin, begin + count) of the only sequence of `args`, as the chunk of a prefill that ends at its last row.
AttentionArgs chunk_of(AttentionArgs args, std::int64_t begin, std::int64_t count) {
  const auto end = static_cast<int>(args.k.size(0) - args.q.size(0) + begin + count);
  args.q = args.q.narrow(0, begin, count);
  args.b_seq_len = at::tensor({static_cast<int>(count)}, at::kInt);
  args.max_input_len = count;
  args.b_start_loc_k = at::tensor({0}, at::kInt);
  args.b_seq_len_k = at::tensor({end}, at::kInt);
  args.max_input_len_k = end;
  args.phase = "prefill";
  return args;
}

/// A line of /proc/self/status in bytes, e.g. VmHWM, the peak of the resident memory.
std::int64_t process_bytes(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(name + ":", 0) == 0) return std::stoll(line.substr(name.size() + 1)) * 1024;
  }
  return -1;
}

/// The plain computation with every intermediate in the inputs' dtype: scores, softmax over the mask, weighted sum.
at::Tensor eager_in_dtype(const AttentionArgs& args, const at::Tensor& attended) {
  const std::int64_t group = args.q.size(1) / args.k.size(1);
  const at::Tensor q = args.q.transpose(0, 1), k = args.k.transpose(0, 1).repeat_interleave(group, 0);
  const at::Tensor v = args.v.transpose(0, 1).repeat_interleave(group, 0);
  const at::Tensor scores = at::matmul(q, k.transpose(1, 2)).mul(1.0 / std::sqrt(static_cast<double>(args.q.size(2))));
  const at::Tensor hidden = attended.transpose(0, 1).logical_not();
  return at::matmul(at::softmax(scores.masked_fill(hidden, -std::numeric_limits<double>::infinity()), -1), v)
      .transpose(0, 1);
}

struct Errors {
  double largest;
  double mean;
};

Errors errors_of(const at::Tensor& actual, const at::Tensor& exact) {
  const at::Tensor error = actual.to(at::kDouble).sub(exact).abs();
  return {error.max().item<double>(), error.mean().item<double>()};
}

}  // namespace

TEST_CASE("cpu: the number of threads changes no bit", "[cpu]") {
  const CaseShape shape{.lengths = {{300, 300}, {1, 90}, {70, 200}}, .heads = 6, .kv_heads = 2, .head_dim = 40};
  for (const Setting& setting : all_settings()) {
    INFO(setting);
    AttentionArgs args = on_backend(with_setting(make_args(shape), setting), "cpu");
    args.collect_stats = setting.br % 2 == 0;
    const AttentionMaskResult one = run_on(1, args);
    for (const int threads : {2, 3, 7}) CHECK(difference_of(run_on(threads, args), one) == "");
  }
}

TEST_CASE("cpu: a row has the same bits in whatever tile it is computed", "[cpu]") {
  // Chunks of these lengths start at lanes, blocks and tasks that the whole does not have there.
  for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
    const CaseShape shape{.lengths = {{150, 190}}, .heads = 3, .kv_heads = 1, .head_dim = 20, .dtype = dtype};
    for (const Setting& setting : standard_settings()) {
      if (!setting.is_causal) continue;  // a chunk of a computation that is not causal has other keys
      INFO(dtype << ", " << setting);
      AttentionArgs args = on_backend(with_setting(make_args(shape), setting), "cpu");
      args.phase = "prefill";
      const AttentionResult whole = attention(args);
      std::int64_t begin = 0;
      for (const std::int64_t count : {1, 2, 3, 5, 16, 17, 40, 66}) {
        const AttentionResult part = attention(chunk_of(args, begin, count));
        CHECK(bitwise_difference(part.output, whole.output.narrow(0, begin, count)) == "");
        CHECK(bitwise_difference(part.logsumexp, whole.logsumexp.narrow(0, begin, count)) == "");
        begin += count;
      }
      REQUIRE(begin == args.q.size(0));
    }
  }
}

TEST_CASE("cpu: chunks of whole query blocks skip what the whole does, bit for bit", "[cpu]") {
  for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
    BlockCounts counts;
    for (const Setting& setting : skip_settings()) {
      if (!setting.is_causal) continue;
      INFO(dtype << ", " << setting);
      const std::int64_t offset = 3 * setting.br;  // the rows begin with a block
      const std::int64_t rows = 13 * setting.br;
      const CaseShape shape{
          .lengths = {{rows, offset + rows}}, .heads = 3, .kv_heads = 1, .head_dim = 20, .dtype = dtype};
      AttentionArgs args = on_backend(with_setting(make_args(shape), setting), "cpu");
      args.phase = "prefill";
      args.collect_stats = true;
      const AttentionResult whole = attention(args);
      counts.add(whole.stats);
      std::int64_t begin = 0;
      for (const std::int64_t blocks : {1, 2, 3, 7}) {
        const std::int64_t count = blocks * setting.br;
        const AttentionResult part = attention(chunk_of(args, begin, count));
        CHECK(bitwise_difference(part.output, whole.output.narrow(0, begin, count)) == "");
        CHECK(bitwise_difference(part.logsumexp, whole.logsumexp.narrow(0, begin, count)) == "");
        begin += count;
      }
      REQUIRE(begin == rows);
    }
    CHECK(counts.some_but_not_all());
  }
}

TEST_CASE("cpu: a head has the same bits alone and in its group", "[cpu]") {
  AttentionArgs args =
      on_backend(make_args({.lengths = {{130, 130}}, .heads = 5, .kv_heads = 1, .head_dim = 33}), "cpu");
  args.sparsity_n = 2;
  const at::Tensor all = attention(args).output;
  const at::Tensor q = args.q;
  for (std::int64_t head = 0; head < 5; ++head) {
    args.q = q.narrow(1, head, 1);
    CHECK(bitwise_difference(attention(args).output, all.narrow(1, head, 1)) == "");
  }
}

TEST_CASE("cpu: infinite and NaN values reach only the rows that attend to them", "[cpu]") {
  AttentionArgs args =
      on_backend(make_args({.lengths = {{100, 100}}, .heads = 2, .kv_heads = 1, .head_dim = 8}), "cpu");
  const AttentionMaskResult clean = attention_with_mask(with_setting(args, {.sparsity_n = 2, .dense_window_size = 3}));
  args.v[70].fill_(std::numeric_limits<float>::quiet_NaN());
  args.v[71].fill_(std::numeric_limits<float>::infinity());
  const at::Tensor output = attention(with_setting(args, {.sparsity_n = 2, .dense_window_size = 3})).output;
  const at::Tensor touched = unpack_mask(clean.mask, args).narrow(2, 70, 2).any(-1).unsqueeze(-1);
  CHECK(touched.any().item<bool>());
  CHECK(bitwise_difference(output.masked_fill(touched, 0.0), clean.result.output.masked_fill(touched, 0.0)) == "");
  CHECK_FALSE(output.isfinite().logical_and(touched).any().item<bool>());
}

TEST_CASE("cpu: 32768 tokens take less than 64 MiB beyond inputs and results", "[cpu]") {
  AttentionArgs args =
      on_backend(make_args({.lengths = {{32768, 32768}}, .heads = 1, .kv_heads = 1, .head_dim = 64}), "cpu");
  args.sparsity_n = 2;
  static_cast<void>(attention(chunk_of(args, 0, 64)));  // threads and code pages are there
  malloc_trim(0);                                       // what making the inputs freed is not there to be used again
  std::ofstream("/proc/self/clear_refs") << "5";        // the peak starts anew
  const std::int64_t before = process_bytes("VmRSS");
  REQUIRE(before > 0);
  REQUIRE(process_bytes("VmHWM") - before < (std::int64_t{1} << 20));
  const AttentionResult result = attention(args);
  const auto results = static_cast<std::int64_t>(result.output.nbytes() + result.logsumexp.nbytes());
  const std::int64_t beyond = process_bytes("VmHWM") - before - results;
  CAPTURE(beyond);
  CHECK(beyond < (std::int64_t{64} << 20));
}

TEST_CASE("cpu: errors are at most twice those of the plain computation in the same dtype", "[cpu]") {
  for (const auto dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const Setting& setting : {Setting{}, Setting{.sparsity_n = 2}, Setting{.sparsity_n = 4, .sparsity_m = 8}}) {
      INFO(dtype << ", " << setting);
      const CaseShape shape{.lengths = {{700, 700}}, .heads = 4, .kv_heads = 2, .head_dim = 64, .dtype = dtype};
      const AttentionArgs args = on_backend(with_setting(make_args(shape), setting), "cpu");
      const AttentionMaskResult actual = attention_with_mask(args);
      const at::Tensor mask = unpack_mask(actual.mask, args);
      const at::Tensor exact = attend_under_mask(args, mask).output;
      const Errors plain = errors_of(eager_in_dtype(args, mask), exact);
      const Errors own = errors_of(actual.result.output, exact);
      CHECK(own.largest <= 2 * plain.largest);
      CHECK(own.mean <= 2 * plain.mean);
    }
  }
}
