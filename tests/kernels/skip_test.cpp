// Skip-softmax: the decision itself, and the decisions of every backend on blocks whose maxima are written down.
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention_cases.h"
#include "kernels/skip.h"

using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

/// Blocks of 8 keys; key 0 of block c has score maxima[c] for a query of 1, its other keys -50. softmax_scale 1.
/// `queries` are the values of the query rows: a row's scores are its value times these.
AttentionArgs block_args(const std::vector<float>& maxima, const std::vector<float>& queries, double lambda) {
  const auto blocks = static_cast<std::int64_t>(maxima.size());
  const auto rows = static_cast<std::int64_t>(queries.size());
  AttentionArgs args;
  args.q = at::tensor(queries).view({rows, 1, 1});
  args.k = at::full({blocks, 8}, -50.0);
  args.k.select(1, 0).copy_(at::tensor(maxima));
  args.k = args.k.view({blocks * 8, 1, 1});
  args.v = at::ones({blocks * 8, 1, 1});
  args.b_start_loc = at::tensor({0}, at::kInt);
  args.b_start_loc_k = args.b_start_loc;
  args.b_seq_len = at::tensor({static_cast<int>(rows)}, at::kInt);
  args.b_seq_len_k = at::tensor({static_cast<int>(blocks * 8)}, at::kInt);
  args.max_input_len = rows;
  args.is_causal = false;
  args.softmax_scale = 1.0;
  args.skip_softmax_threshold = lambda;
  args.skip_softmax_bc = 8;
  args.collect_stats = true;
  return args;
}

/// Which blocks a row attends to, as '1' and '.'.
std::string blocks_of(const AttentionArgs& args, std::int64_t row) {
  const at::Tensor mask = unpack_mask(attention_with_mask(args).mask, args)[row][0];
  std::string text;
  for (std::int64_t j = 0; j < mask.size(0); j += 8)
    text += mask.narrow(0, j, std::min<std::int64_t>(8, mask.size(0) - j)).any().item<bool>() ? '1' : '.';
  return text;
}

std::pair<std::int64_t, std::int64_t> block_counts(const AttentionArgs& args) {
  const at::Tensor stats = attention(args).stats;
  return {stats[0][0][0].item<std::int64_t>(), stats[0][0][1].item<std::int64_t>()};
}

}  // namespace

TEST_CASE("skip: the decision", "[skip]") {
  STATIC_CHECK(row_votes_skip(1.0f, 4.0f, 1.0f, -2.0f));
  STATIC_CHECK_FALSE(row_votes_skip(2.0f, 4.0f, 1.0f, -2.0f));  // equal to ln(lambda): not below
  STATIC_CHECK_FALSE(row_votes_skip(4.0f, 4.0f, 1.0f, -1e-30f));
  STATIC_CHECK(row_votes_skip(2.0f, 4.0f, 2.0f, -2.0f));  // the difference is scaled
  STATIC_CHECK(row_votes_skip(1.0, 4.0, 1.0, -2.0f));
  CHECK_FALSE(row_votes_skip(-1e30f, 1e30f, 1.0f, skip_log_lambda(0.0)));
  CHECK_FALSE(row_votes_skip(-kInf, -kInf, 1.0f, -1.0f));
  CHECK_FALSE(row_votes_skip(kInf, kInf, 1.0f, -1.0f));
  CHECK(row_votes_skip(0.0f, kInf, 1.0f, -1.0f));
}

TEST_CASE("skip: ln(lambda) is taken of lambda in fp32", "[skip]") {
  CHECK(skip_log_lambda(0.0) == -kInf);
  CHECK(skip_log_lambda(0.1) == static_cast<float>(std::log(static_cast<double>(0.1f))));
  CHECK(skip_log_lambda(0.1) == skip_log_lambda(0.1f));
  CHECK(skip_log_lambda(0.9999) < 0.0f);
}

TEST_CASE("skip: a block is skipped where its maximum is further below the running one than lambda allows", "[skip]") {
  for (const std::string& backend : cpu_backends()) {
    INFO(backend);
    const double lambda = std::exp(-2.0);
    // 6: running 6. 5: -1. 3: -3, skipped. 9: new maximum. 7.5: -1.5. 6: -3 against 9, skipped.
    AttentionArgs args = on_backend(block_args({6, 5, 3, 9, 7.5f, 6}, {1}, lambda), backend);
    CHECK(blocks_of(args, 0) == "11.11.");
    CHECK(block_counts(args) == std::pair<std::int64_t, std::int64_t>{6, 2});
    args.skip_softmax_threshold = 0.0;
    CHECK(blocks_of(args, 0) == "111111");
    CHECK(block_counts(args) == std::pair<std::int64_t, std::int64_t>{6, 0});
  }
}

TEST_CASE("skip: the rows of a query block decide together and other rows have no vote", "[skip]") {
  for (const std::string& backend : cpu_backends()) {
    INFO(backend);
    const double lambda = std::exp(-2.0);
    // Row 0 would skip block 1 (6 to 3); row 1, a tenth of it, would not (-0.3).
    AttentionArgs args = on_backend(block_args({6, 3}, {1.0f, 0.1f}, lambda), backend);
    args.skip_softmax_br = 2;
    CHECK(blocks_of(args, 0) == "11");
    // Positions 14 and 15 lie in different query blocks of 3 rows: 12-14 and 15-17.
    args.skip_softmax_br = 3;
    CHECK(blocks_of(args, 0) == "1.");
    CHECK(blocks_of(args, 1) == "11");
    CHECK(block_counts(args) == std::pair<std::int64_t, std::int64_t>{4, 1});
    // In decode the query block is the one row.
    args.skip_softmax_br = 128;
    CHECK(blocks_of(args, 0) == "11");
    args.phase = "decode";
    CHECK(blocks_of(args, 0) == "1.");
    CHECK(blocks_of(args, 1) == "11");

    // Causal, 9 rows at positions 7 to 15: the first sees no key of block 1, so it cannot veto what the others skip.
    std::vector<float> queries(9, 1.0f);
    queries[0] = 0.1f;
    args = on_backend(block_args({6, 3}, queries, lambda), backend);
    args.is_causal = true;
    CHECK(blocks_of(args, 0) == "1.");
    CHECK(blocks_of(args, 8) == "1.");
    CHECK(block_counts(args) == std::pair<std::int64_t, std::int64_t>{2, 1});
  }
}

TEST_CASE("skip: a chunk boundary inside a query block makes two blocks of it", "[skip]") {
  for (const std::string& backend : cpu_backends()) {
    INFO(backend);
    // Positions 14 and 15 share a query block: row 1, a tenth of row 0, keeps block 1 for both.
    AttentionArgs whole = on_backend(block_args({6, 3}, {1.0f, 0.1f}, std::exp(-2.0)), backend);
    whole.is_causal = true;
    whole.phase = "prefill";
    whole.skip_softmax_br = 2;
    CHECK(blocks_of(whole, 0) == "11");
    CHECK(block_counts(whole) == std::pair<std::int64_t, std::int64_t>{2, 0});
    // Each row in a chunk of its own; the first one's last block has 7 keys.
    AttentionArgs first = whole, second = whole;
    first.q = whole.q.narrow(0, 0, 1);
    second.q = whole.q.narrow(0, 1, 1);
    first.b_seq_len = second.b_seq_len = at::tensor({1}, at::kInt);
    first.b_seq_len_k = at::tensor({15}, at::kInt);
    first.max_input_len = second.max_input_len = 1;
    CHECK(blocks_of(first, 0) == "1.");
    CHECK(block_counts(first) == std::pair<std::int64_t, std::int64_t>{2, 1});
    CHECK(blocks_of(second, 0) == "11");
    CHECK(block_counts(second) == std::pair<std::int64_t, std::int64_t>{2, 0});
  }
}

TEST_CASE("skip: lambda per sequence equals a scalar one for each", "[skip]") {
  const std::vector<float> lambdas{0.5f, 0.0f, 0.9f};
  for (const std::string& backend : cpu_backends()) {
    const CaseShape shape{.lengths = {{70, 70}, {50, 50}, {3, 90}}, .fill = Fill::kIntegers};
    AttentionArgs together = on_backend(make_args(shape), backend);
    together.skip_softmax_br = 4;
    together.skip_softmax_bc = 8;
    together.collect_stats = true;
    AttentionArgs scalar = together;
    together.skip_softmax_lambda = at::tensor(lambdas);
    const AttentionResult result = attention(together);
    BlockCounts counts;
    counts.add(result.stats);
    CHECK(counts.some_but_not_all());
    const auto sequences = sequences_of(together);
    for (std::size_t b = 0; b < lambdas.size(); ++b) {
      INFO(backend << ", sequence " << b);
      scalar.skip_softmax_threshold = lambdas[b];
      const AttentionResult expected = attention(scalar);
      const auto rows = [&](const at::Tensor& t) { return t.narrow(0, sequences[b].q_start, sequences[b].q_len); };
      CHECK(bitwise_difference(rows(result.output), rows(expected.output)) == "");
      CHECK(result.stats[static_cast<std::int64_t>(b)].equal(expected.stats[static_cast<std::int64_t>(b)]));
    }
  }
}

TEST_CASE("skip: the shared settings skip some blocks and not all", "[skip]") {
  for (const std::string& backend : cpu_backends()) {
    for (const Setting& setting : skip_settings()) {
      const CaseShape shape{.lengths = {{257, 257}}, .heads = 4, .kv_heads = 2, .fill = Fill::kIntegers};
      AttentionArgs args = on_backend(with_setting(make_args(shape), setting), backend);
      args.collect_stats = true;
      const at::Tensor stats = attention(args).stats.sum(at::IntArrayRef({0, 1}));
      INFO(backend << ": " << setting);
      CHECK(stats[1].item<std::int64_t>() > 0);
      CHECK(stats[1].item<std::int64_t>() < stats[0].item<std::int64_t>());
    }
  }
}

TEST_CASE("skip: with N:M the attended keys are those of both, decided apart", "[skip]") {
  for (const std::string& backend : cpu_backends()) {
    const CaseShape shape{.lengths = {{150, 150}}, .heads = 4, .kv_heads = 2, .fill = Fill::kIntegers};
    AttentionArgs both = on_backend(make_args(shape), backend);
    both.sparsity_n = 2;
    both.dense_window_size = 5;
    both.skip_softmax_threshold = 0.6;
    both.skip_softmax_br = 4;
    both.skip_softmax_bc = 8;
    AttentionArgs nm = both, skip = both;
    nm.skip_softmax_threshold = std::nullopt;
    skip.sparsity_n = 0;
    const auto mask = [](const AttentionArgs& args) { return unpack_mask(attention_with_mask(args).mask, args); };
    INFO(backend);
    skip.collect_stats = true;
    BlockCounts counts;
    counts.add(attention(skip).stats);
    CHECK(counts.some_but_not_all());
    CHECK(mask(both).equal(mask(nm).logical_and(mask(skip))));
    CHECK_FALSE(mask(both).equal(mask(nm)));
    CHECK_FALSE(mask(both).equal(mask(skip)));
  }
}
