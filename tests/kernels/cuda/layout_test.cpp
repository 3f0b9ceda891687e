// Where tensors and sequences lie: ragged packed batches among NaN, strided and overlapping views, keys that sequences
// share, sequences that are out of range, and lengths that only the GPU knows.
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <catch2/catch_test_macros.hpp>

#include <limits>

#include "kernels/attention_checks.h"

using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;

namespace {

at::Tensor ints(const std::vector<int>& values) { return at::tensor(values, at::kInt); }

const std::vector<Lengths>& ragged_lengths() {
  static const std::vector<Lengths> lengths{{100, 100}, {1, 1},   {129, 257}, {0, 5},     {300, 300}, {64, 64},
                                            {63, 127},  {2, 200}, {17, 3},    {128, 128}, {1, 190},   {191, 191}};
  return lengths;
}

/// One batch of two sequences, 90 and 70 tokens, with metadata of its own for the keys.
AttentionArgs two_sequences(const TestedBackend& backend) {
  AttentionArgs args = on_backend(
      make_args({.lengths = {{90, 90}, {70, 70}}, .heads = 4, .kv_heads = 2, .head_dim = 64, .dtype = at::kBFloat16}),
      backend);
  args.sparsity_n = 2;
  args.b_start_loc_k = args.b_start_loc;
  args.b_seq_len_k = args.b_seq_len;
  args.max_input_len_k = 90;
  return args;
}

}  // namespace

TEST_CASE("layout: ragged sequences in any order, from any row, with NaN in all that must not be read", "[layout]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const std::int64_t head_dim : {64, 128, 72}) {
      CaseShape shape{.lengths = ragged_lengths(),
                      .heads = 4,
                      .kv_heads = 2,
                      .head_dim = head_dim,
                      .dtype = at::kBFloat16,
                      .fill = Fill::kIntegers,
                      .storage = Storage::kPoisoned};
      shape = shape_for(backend, shape);
      const AttentionArgs args = make_args(shape);
      for (const Setting& setting : standard_settings()) {
        INFO(backend << ": " << shape << "; " << setting);
        CHECK(check_against_reference(with_setting(args, setting), backend, shape.fill) == "");
      }
    }
  }
}

TEST_CASE("layout: a sequence has the same mask and the same bits wherever it lies in a batch", "[layout]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const Setting& setting : standard_settings()) {
      INFO(backend << ": " << setting);
      const CaseShape shape{.lengths = {{150, 230}}, .heads = 4, .kv_heads = 2, .head_dim = 64, .dtype = at::kHalf};
      AttentionArgs alone = on_backend(with_setting(make_args(shape), setting), backend);
      alone.max_input_len = 1000;
      alone.max_input_len_k = 1000;
      const AttentionResult expected = run(alone);
      const at::Tensor expected_mask = attended_mask(alone);
      for (const int shift : {1, 7, 63, 64, 130}) {
        AttentionArgs shifted = alone;
        shifted.q = at::randn({150 + shift, 4, 64}).to(at::kHalf);
        shifted.q.narrow(0, shift, 150).copy_(alone.q);
        for (auto [to, from] : {std::pair{&shifted.k, &alone.k}, std::pair{&shifted.v, &alone.v}}) {
          *to = at::randn({230 + shift, 2, 64}).to(at::kHalf);
          to->narrow(0, shift, 230).copy_(*from);
        }
        shifted.b_start_loc = ints({0, shift});
        shifted.b_seq_len = ints({shift, 150});
        shifted.b_start_loc_k = ints({0, shift});
        shifted.b_seq_len_k = ints({shift, 230});
        const AttentionResult actual = run(shifted);
        INFO("shifted by " << shift);
        CHECK(bitwise_difference(actual.output.narrow(0, shift, 150), expected.output) == "");
        CHECK(bitwise_difference(actual.logsumexp.narrow(0, shift, 150), expected.logsumexp) == "");
        CHECK(attended_mask(shifted).narrow(0, shift, 150).equal(expected_mask));
      }
    }
  }
}

TEST_CASE("layout: a cache of [batch, heads, tokens, head_dim] is read in place", "[layout]") {
  constexpr std::int64_t kBatch = 3, kHeads = 2, kTokens = 136, kHeadDim = 64;
  for (const TestedBackend& backend : tested_backends()) {
    for (const int q_len : {1, 40}) {
      AttentionArgs args = on_backend(AttentionArgs(), backend);
      const at::TensorOptions options(at::kBFloat16);
      args.q = at::randn({kBatch * q_len, 4, kHeadDim}).to(options);
      const at::Tensor k = at::randn({kBatch, kHeads, kTokens, kHeadDim}).to(options);
      const at::Tensor v = at::randn({kBatch, kHeads, kTokens, kHeadDim}).to(options);
      // Row r of head h is at (r + h * kTokens) * kHeadDim: sequence b begins at row b * kHeads * kTokens.
      const auto as_rows = [&](const at::Tensor& cache) {
        return cache.as_strided({(kBatch * kHeads - kHeads + 1) * kTokens, kHeads, kHeadDim},
                                {kHeadDim, kTokens * kHeadDim, 1});
      };
      args.k = as_rows(k);
      args.v = as_rows(v);
      args.b_start_loc = ints({0, q_len, 2 * q_len});
      args.b_seq_len = ints({q_len, q_len, q_len});
      args.b_start_loc_k = ints({0, kHeads * kTokens, 2 * kHeads * kTokens});
      args.b_seq_len_k = ints({100, 136, 41});
      args.max_input_len = q_len;
      args.max_input_len_k = kTokens;
      args.sparsity_n = 2;
      AttentionArgs packed = args;
      packed.k = k.transpose(1, 2).reshape({kBatch * kTokens, kHeads, kHeadDim});
      packed.v = v.transpose(1, 2).reshape({kBatch * kTokens, kHeads, kHeadDim});
      packed.b_start_loc_k = ints({0, kTokens, 2 * kTokens});
      INFO(backend << ", Lq " << q_len);
      const AttentionResult actual = run(args), expected = run(packed);
      CHECK(bitwise_difference(actual.output, expected.output) == "");
      CHECK(bitwise_difference(actual.logsumexp, expected.logsumexp) == "");
      CHECK(check_against_reference(packed, backend, Fill::kNormal) == "");
    }
  }
}

TEST_CASE("layout: sequences may share keys, and heads a stride of 0", "[layout]") {
  for (const TestedBackend& backend : tested_backends()) {
    AttentionArgs args = on_backend(make_args({.lengths = {{50, 120}, {64, 120}},
                                               .heads = 2,
                                               .kv_heads = 2,
                                               .head_dim = 64,
                                               .dtype = at::kBFloat16,
                                               .fill = Fill::kIntegers}),
                                    backend);
    args.b_start_loc_k = ints({20, 0});
    args.b_seq_len_k = ints({100, 111});
    if (!backend.needs_alignment) args.k = args.k.narrow(1, 0, 1).expand({240, 2, 64});  // else errors_test.cpp
    args.sparsity_n = 2;
    args.dense_window_size = 9;
    INFO(backend);
    CHECK(check_against_reference(args, backend, Fill::kIntegers) == "");
  }
}

TEST_CASE("layout: bases and strides that are not multiples of 16 bytes", "[layout]") {
  for (const TestedBackend& backend : tested_backends()) {
    if (backend.needs_alignment) continue;  // errors_test.cpp
    for (const auto dtype : backend.dtypes) {
      for (const std::int64_t head_dim : {59, 64}) {
        AttentionArgs args = make_args({.lengths = {{140, 140}, {1, 90}},
                                        .heads = 4,
                                        .kv_heads = 2,
                                        .head_dim = head_dim + 5,
                                        .dtype = dtype,
                                        .fill = Fill::kIntegers});
        for (at::Tensor* t : {&args.q, &args.k, &args.v}) *t = t->narrow(2, 1, head_dim);
        args.sparsity_n = 2;
        args.dense_window_size = 3;
        INFO(backend << ", " << dtype << ", head_dim " << head_dim);
        CHECK(check_against_reference(args, backend, Fill::kIntegers) == "");
      }
    }
  }
}

TEST_CASE("layout: rows of a sequence that is out of range are NaN, and no other row changes", "[layout]") {
  struct Metadata {
    std::vector<int> q_start, q_len, k_start, k_len;
    int first_nan = 0, nans = 0;
  };
  // Sequence 0 stays as it is. Sequence 1 reads or writes beyond the tensors (160 rows) or the bounds (90).
  const std::vector<Metadata> bad{
      {{0, 90}, {90, 70}, {0, 91}, {90, 70}, 90, 70},          // its keys end after the last row
      {{0, 90}, {90, 70}, {0, -1}, {90, 70}, 90, 70},          // its keys start before the first row
      {{0, 90}, {90, 70}, {0, 0}, {90, 91}, 90, 70},           // more keys than their bound
      {{0, 90}, {90, 70}, {0, 0}, {90, -5}, 90, 70},           // fewer than none
      {{0, 91}, {90, 70}, {0, 90}, {90, 70}, 91, 69},          // queries beyond the last row
      {{0, 90}, {90, 2147483647}, {0, 90}, {90, 70}, 90, 70},  // the sum of start and length overflows int
      {{0, 90}, {90, -3}, {0, 90}, {90, 70}, 90, 0},           // owns no row
      {{0, 60}, {60, 95}, {0, 90}, {60, 70}, 60, 95},          // more queries than their bound
  };
  for (const TestedBackend& backend : tested_backends()) {
    for (std::size_t i = 0; i < bad.size(); ++i) {
      AttentionArgs args = two_sequences(backend);
      args.b_start_loc = ints(bad[i].q_start);
      args.b_seq_len = ints(bad[i].q_len);
      args.b_start_loc_k = ints(bad[i].k_start);
      args.b_seq_len_k = ints(bad[i].k_len);
      const int own = bad[i].q_len[0];
      AttentionArgs first = args;
      for (at::Tensor* t : {&first.b_start_loc, &first.b_seq_len}) *t = t->narrow(0, 0, 1);
      first.b_start_loc_k = first.b_start_loc_k->narrow(0, 0, 1);
      first.b_seq_len_k = first.b_seq_len_k->narrow(0, 0, 1);
      AttentionResult expected = run(first);
      CHECK(expected.output.narrow(0, own, 160 - own).eq(0).all().item<bool>());
      expected.output.narrow(0, bad[i].first_nan, bad[i].nans).fill_(std::numeric_limits<double>::quiet_NaN());
      expected.logsumexp.narrow(0, bad[i].first_nan, bad[i].nans).fill_(std::numeric_limits<double>::quiet_NaN());
      const AttentionResult actual = run(args);
      INFO(backend << ", case " << i);
      CHECK(bitwise_difference(actual.output, expected.output) == "");
      CHECK(bitwise_difference(actual.logsumexp, expected.logsumexp) == "");
    }
  }
}

TEST_CASE("layout: loose bounds change no bit", "[layout]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const std::vector<Lengths>& lengths :
         {std::vector<Lengths>{{90, 90}, {1, 300}, {64, 64}}, std::vector<Lengths>{{1, 700}, {1, 3}}}) {
      const CaseShape shape{
          .lengths = lengths, .heads = 4, .kv_heads = 2, .head_dim = 128, .dtype = at::kBFloat16, .seed = 4};
      for (const std::int64_t n : {0, 2}) {
        AttentionArgs tight = on_backend(make_args(shape), backend);
        tight.sparsity_n = n;
        tight.phase = "prefill";
        AttentionArgs loose = tight;
        loose.max_input_len_k = 1'000'000;
        if (lengths.front().q > 1) loose.max_input_len = 1'000'000;  // else another kernel may be right for it
        INFO(backend << ": " << shape << ", N = " << n);
        CHECK(bitwise_difference(run(loose).output, run(tight).output) == "");
        CHECK(bitwise_difference(run(loose).logsumexp, run(tight).logsumexp) == "");
      }
    }
  }
}
