// Few query rows over many keys: the kernel that splits keys over the GPU, and its neighbours at its limits of 16 rows
// of a sequence and 128 of a key head.
#include <ATen/ops/tensor.h>
#include <catch2/catch_test_macros.hpp>

#include <limits>

#include "kernels/attention_checks.h"

using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;

namespace {

AttentionArgs decode_args(const CaseShape& shape, const TestedBackend& backend, std::int64_t sliding_window = 0) {
  AttentionArgs args = on_backend(make_args(shape), backend);
  args.phase = "decode";
  args.sparsity_n = 2;  // which the phase leaves out
  args.sliding_window = sliding_window;
  return args;
}

}  // namespace

TEST_CASE("decode: one row per sequence, ragged caches, every head dim", "[decode]") {
  const std::vector<Lengths> lengths{{1, 1},   {1, 63},  {1, 64},   {1, 65}, {1, 255},
                                     {1, 256}, {1, 257}, {1, 1500}, {1, 0}};
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.dtypes) {
      for (const std::int64_t head_dim : {8, 32, 40, 64, 72, 80, 96, 112, 128, 136, 192, 256}) {
        for (const auto fill : {Fill::kIntegers, Fill::kNormal}) {
          const CaseShape shape{.lengths = lengths,
                                .heads = 8,
                                .kv_heads = 2,
                                .head_dim = head_dim,
                                .dtype = dtype,
                                .fill = fill,
                                .storage = Storage::kPoisonedAligned,
                                .seed = static_cast<std::uint64_t>(head_dim)};
          INFO(backend << ": " << shape);
          CHECK(check_against_reference(decode_args(shape, backend), backend, fill) == "");
        }
      }
    }
  }
}

TEST_CASE("decode: groups of heads and several rows, causal and with a sliding window", "[decode]") {
  struct Group {
    std::int64_t heads, kv_heads, rows;
  };
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto& [heads, kv_heads, rows] :
         {Group{1, 1, 1}, Group{4, 4, 3}, Group{6, 2, 5}, Group{8, 1, 2}, Group{16, 1, 1}, Group{14, 2, 2},
          Group{2, 2, 16}, Group{17, 1, 1}, Group{4, 1, 5}, Group{71, 1, 1}, Group{40, 2, 3}, Group{16, 2, 16},
          Group{129, 1, 1}, Group{2, 1, 17}}) {
      for (const std::int64_t window : {0, 1, 100, 1000}) {
        const CaseShape shape{.lengths = {{rows, 700}, {rows, rows}, {1, 300}, {rows, 1}},
                              .heads = heads,
                              .kv_heads = kv_heads,
                              .head_dim = 64,
                              .dtype = at::kBFloat16,
                              .fill = Fill::kIntegers};
        INFO(backend << ": " << shape << "; window " << window);
        AttentionArgs args = decode_args(shape, backend, window);
        CHECK(check_against_reference(args, backend, Fill::kIntegers) == "");
        args.is_causal = false;
        CHECK(check_against_reference(args, backend, Fill::kIntegers) == "");
      }
    }
  }
}

TEST_CASE("decode: a long cache", "[decode]") {
  for (const TestedBackend& backend : tested_backends()) {
    const CaseShape shape{
        .lengths = {{1, 32768}, {1, 12345}}, .heads = 4, .kv_heads = 1, .head_dim = 128, .dtype = at::kBFloat16};
    INFO(backend << ": " << shape);
    const AttentionArgs args = decode_args(shape, backend);
    const at::Tensor mask = unpack_mask(attention_with_mask(on_backend(args, "cpu")).mask, args);  // all visible keys
    CHECK(check_values(args, run(args), mask, backend) == "");
  }
}

TEST_CASE("decode: bits do not depend on what else is in the batch", "[decode]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const int batch : {1, 2, 16, 200}) {
      std::vector<Lengths> lengths(static_cast<std::size_t>(batch), Lengths{1, 40});
      lengths.back() = {1, 5000};
      const CaseShape shape{.lengths = lengths, .heads = 4, .kv_heads = 2, .head_dim = 128, .dtype = at::kBFloat16};
      AttentionArgs args = decode_args(shape, backend);
      const AttentionArgs alone_tensors = decode_args(
          {.lengths = {{1, 5000}}, .heads = 4, .kv_heads = 2, .head_dim = 128, .dtype = at::kBFloat16, .seed = 77},
          backend);
      const SequenceRows last = sequences_of(args).back();
      args.q.narrow(0, last.q_start, 1).copy_(alone_tensors.q);
      args.k.narrow(0, last.k_start, 5000).copy_(alone_tensors.k);
      args.v.narrow(0, last.k_start, 5000).copy_(alone_tensors.v);
      INFO(backend << ", batch " << batch);
      CHECK(bitwise_difference(run(args).output.narrow(0, last.q_start, 1), run(alone_tensors).output) == "");
    }
  }
}

TEST_CASE("decode: NaN and infinite scores, and keys of score -inf", "[decode]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      for (const int at : {0, 500, 999}) {
        AttentionArgs args = decode_args({.lengths = {{2, 1000}, {2, 1000}},
                                          .heads = 4,
                                          .kv_heads = 2,
                                          .head_dim = 64,
                                          .dtype = at::kBFloat16,
                                          .fill = Fill::kIntegers},
                                         backend);
        args.q.select(2, 0).fill_(1);
        const AttentionResult clean = run(args);
        args.k.narrow(0, at, 1).narrow(1, 0, 1).select(2, 0).fill_(bad);  // sequence 0, key head 0
        AttentionResult expected = clean;
        expected.output = clean.output.clone();
        // Rows 0 and 1 stand at keys 998 and 999; heads 0 and 1 read key head 0.
        const int first_row = at == 999 ? 1 : 0;
        expected.output.narrow(0, first_row, 2 - first_row)
            .narrow(1, 0, 2)
            .fill_(std::numeric_limits<double>::quiet_NaN());
        INFO(backend << ", " << bad << " at key " << at);
        CHECK(difference(run(args).output, expected.output, clean.output.abs().mul(0x1p-6)) == "");
        args.k.narrow(0, at, 1).narrow(1, 0, 1).select(2, 0).fill_(-std::numeric_limits<double>::infinity());
        CHECK(check_against_reference(args, backend, Fill::kIntegers) == "");
      }
    }
  }
}
