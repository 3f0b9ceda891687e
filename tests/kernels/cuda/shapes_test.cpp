// FlashAttention's classes of shapes: head dims and lengths at, below and above tile sizes, with all patterns, sinks
// and windows, sampled at random.
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <array>
#include <numeric>
#include <random>

#include "kernels/attention_checks.h"

using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;

namespace {

struct Pattern {
  std::int64_t n, m;
};
constexpr std::array<Pattern, 7> kPatterns{{{0, 4}, {2, 4}, {1, 4}, {3, 4}, {4, 8}, {1, 8}, {7, 8}}};
constexpr std::array<std::int64_t, 4> kSinks{0, 1, 4, 67};
constexpr std::array<std::int64_t, 4> kWindows{0, 1, 64, 129};
constexpr std::array<std::int64_t, 10> kHeadDims{32, 40, 59, 64, 80, 96, 111, 128, 192, 256};
constexpr std::array<std::int64_t, 10> kLengths{1, 63, 97, 113, 127, 128, 129, 257, 1025, 2048};

/// Settings and shapes beside head dim and length: each drawn for itself, so that no two go in step.
class Samples {
 public:
  Setting setting() {
    const Pattern pattern = one_of(kPatterns);
    return {.is_causal = draw(5) != 0,
            .sparsity_n = pattern.n,
            .sparsity_m = pattern.m,
            .num_sink_tokens = one_of(kSinks),
            .dense_window_size = one_of(kWindows),
            .sliding_window = draw(8) == 0 ? 100 : 0};
  }

  /// Lk is the length; Lq too, or a part of it as in a chunk of a prefill.
  CaseShape shape(std::int64_t head_dim, std::int64_t length) {
    const std::int64_t q_len = draw(4) == 0 ? (length + 2) / 3 : length;
    const std::int64_t kv_heads = 1 + static_cast<std::int64_t>(draw(2));
    return {.lengths = {{q_len, length}},
            .heads = kv_heads * (1 + static_cast<std::int64_t>(draw(2))),
            .kv_heads = kv_heads,
            .head_dim = head_dim,
            .dtype = one_of(std::array{at::kBFloat16, at::kHalf, at::kFloat}),
            .fill = draw(2) == 0 ? Fill::kIntegers : Fill::kNormal,
            .seed = random_()};
  }

 private:
  std::size_t draw(std::size_t count) { return static_cast<std::size_t>(random_() % count); }
  template <typename T, std::size_t kCount>
  T one_of(const std::array<T, kCount>& values) {
    return values[draw(kCount)];
  }

  std::mt19937_64 random_{1};  // the same samples on every machine
};

void check_head_dims(std::size_t first, std::size_t last) {
  for (const TestedBackend& backend : tested_backends()) {
    Samples samples;
    for (std::size_t d = first; d < last; ++d) {
      if (backend.needs_alignment && kHeadDims[d] % 8 != 0) continue;  // errors_test.cpp
      for (const std::int64_t length : kLengths) {
        const CaseShape shape = shape_for(backend, samples.shape(kHeadDims[d], length));
        const Setting setting = samples.setting();
        INFO(backend << ": " << shape << "; " << setting);
        AttentionArgs args = with_setting(make_args(shape), setting);
        args.phase = "prefill";
        CHECK(check_against_reference(args, backend, shape.fill) == "");
      }
    }
  }
}

/// Query rows `rows` of a call with one sequence that attends to as many keys as there are query rows: each row as a
/// sequence of its own, over the same keys.
AttentionArgs rows_of(const AttentionArgs& whole, const std::vector<int>& rows) {
  AttentionArgs args = whole;
  std::vector<at::Tensor> q;
  std::vector<int> start(rows.size()), q_len(rows.size(), 1), k_start(rows.size(), 0), k_len;
  std::iota(start.begin(), start.end(), 0);
  for (const int row : rows) {
    q.push_back(whole.q.narrow(0, row, 1));
    k_len.push_back(row + 1);
  }
  args.q = at::cat(q);
  args.b_start_loc = at::tensor(start, at::kInt);
  args.b_seq_len = at::tensor(q_len, at::kInt);
  args.b_start_loc_k = at::tensor(k_start, at::kInt);
  args.b_seq_len_k = at::tensor(k_len, at::kInt);
  args.max_input_len = 1;
  return args;
}

}  // namespace

TEST_CASE("shapes: head dims up to 80", "[shapes]") { check_head_dims(0, 5); }
TEST_CASE("shapes: head dims from 96", "[shapes-wide]") { check_head_dims(5, kHeadDims.size()); }

TEST_CASE("shapes: 70,000 tokens, 64 rows compared", "[shapes-long]") {
  constexpr int kTokens = 70'000;
  std::vector<int> rows{0, 1, 127, 128, kTokens - 1};
  for (int i = 1; rows.size() < 64; ++i) rows.push_back(static_cast<int>(std::int64_t{i} * 7919 * 11 % kTokens));
  for (const TestedBackend& backend : tested_backends()) {
    const CaseShape shape{
        .lengths = {{kTokens, kTokens}}, .head_dim = 64, .dtype = at::kBFloat16, .fill = Fill::kIntegers};
    const Setting setting{.sparsity_n = 2, .num_sink_tokens = 4, .dense_window_size = 64};
    INFO(backend << ": " << shape << "; " << setting);
    AttentionArgs args = on_backend(with_setting(make_args(shape), setting), backend);
    args.phase = "prefill";
    const AttentionResult whole = run(args);
    AttentionResult sampled;
    std::vector<at::Tensor> output, logsumexp;
    for (const int row : rows) {
      output.push_back(whole.output.narrow(0, row, 1));
      logsumexp.push_back(whole.logsumexp.narrow(0, row, 1));
    }
    sampled.output = at::cat(output);
    sampled.logsumexp = at::cat(logsumexp);
    const AttentionArgs single_rows = rows_of(args, rows);
    // Scores are exact: the mask is the CPU backend's.
    const at::Tensor mask = unpack_mask(attention_with_mask(on_backend(single_rows, "cpu")).mask, single_rows);
    CHECK(check_values(single_rows, sampled, mask, backend) == "");
  }
}
