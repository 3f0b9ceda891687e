// Skip-softmax on the GPU: blocks of any size in prefill and decode, thresholds that live on the GPU, what is not read.
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <catch2/catch_test_macros.hpp>

#include <array>
#include <limits>

#include "kernels/attention_checks.h"

using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Blocks {
  std::int64_t br, bc;
};
constexpr std::array<Blocks, 7> kBlocks{{{128, 128}, {64, 64}, {128, 8}, {16, 256}, {1, 128}, {100, 40}, {3, 24}}};

/// Integer scores, with stretches of keys that are 0: blocks of all sizes fall behind the largest scores of the others.
AttentionArgs stretched_args(const CaseShape& shape) {
  AttentionArgs args = make_args(shape);
  for (const SequenceRows& rows : sequences_of(args)) {
    constexpr std::int64_t kStretch = 192;
    for (std::int64_t key = 72; key < rows.k_len; key += 2 * kStretch) {
      args.k.narrow(0, rows.k_start + key, std::min(kStretch, rows.k_len - key)).zero_();
    }
  }
  args.phase = "prefill";
  args.collect_stats = true;
  return args;
}
AttentionArgs stretched_args(const CaseShape& shape, const TestedBackend& backend) {
  return on_backend(stretched_args(shape_for(backend, shape)), backend);
}

/// An fp32 problem of integer scores in another dtype, its unused storage included.
AttentionArgs in_dtype(AttentionArgs args, at::ScalarType dtype) {
  for (at::Tensor* t : {&args.q, &args.k, &args.v}) {
    const auto elements = static_cast<std::int64_t>(t->storage().nbytes() / t->element_size());
    const at::Tensor storage = t->as_strided({elements}, {1}, 0).to(dtype);
    *t = storage.as_strided(t->sizes(), t->strides(), t->storage_offset());
  }
  return args;
}

AttentionArgs with_blocks(AttentionArgs args, const Blocks& blocks, double lambda) {
  args.skip_softmax_br = blocks.br;
  args.skip_softmax_bc = blocks.bc;
  args.skip_softmax_threshold = lambda;
  return args;
}

std::string check(const AttentionArgs& args, const TestedBackend& backend, BlockCounts& counts) {
  counts.add(run(args).stats);
  return check_against_reference(args, backend, Fill::kIntegers);
}

AttentionArgs decode_args(const CaseShape& shape) {
  AttentionArgs args = stretched_args(shape);
  args.phase = "decode";
  args.sparsity_n = 2;  // which the phase leaves out
  return args;
}

}  // namespace

TEST_CASE("skip blocks: blocks of every size, ragged lengths, groups of heads, alone and with N:M", "[skip]") {
  struct Pattern {
    std::int64_t n, m;
  };
  BlockCounts counts;
  std::size_t problem = 0;
  for (const Blocks& blocks : kBlocks) {
    for (const std::int64_t head_dim : {64, 72, 128, 256}) {
      const CaseShape shape{.lengths = {{260, 260}, {40, 417}, {9, 5}, {0, 7}, {129, 129}},
                            .heads = 4,
                            .kv_heads = 2,
                            .head_dim = head_dim,
                            .fill = Fill::kIntegers,
                            .storage = Storage::kPoisonedAligned,
                            .seed = ++problem};
      AttentionArgs args = with_blocks(stretched_args(shape), blocks, problem % 2 == 0 ? 0.3 : 0.9);
      args.is_causal = problem % 5 != 0;
      args.sliding_window = problem % 7 == 0 ? 200 : 0;
      args.dense_window_size = 64;
      args.num_sink_tokens = 4;
      const std::array<Pattern, 3> patterns{{{0, 4}, {problem / 3 % 3 == 0 ? 1 : 2, 4}, {4, 8}}};
      for (std::size_t i = 0; i < patterns.size(); ++i) {
        args.sparsity_n = patterns[i].n;
        args.sparsity_m = patterns[i].m;
        const AttentionMaskResult reference = reference_result(args);
        counts.add(reference.result.stats);
        for (const TestedBackend& backend : backends_that_skip()) {
          const auto dtype = backend.dtypes[(problem + i) % backend.dtypes.size()];  // every one, of three patterns
          INFO(backend << ", " << dtype << ": " << shape << "; blocks " << blocks.br << " x " << blocks.bc << ", "
                       << args.sparsity_n << ":" << args.sparsity_m);
          CHECK(check_against(reference, in_dtype(args, dtype), backend, Fill::kIntegers) == "");
        }
      }
    }
  }
  INFO(counts.skipped << " of " << counts.visible << " blocks skipped");
  CHECK(counts.some_but_not_all());
}

TEST_CASE("skip blocks: the default blocks on every backend", "[skip]") {
  BlockCounts counts;
  std::uint64_t seed = 40;
  bool by_sequence = false;  // of neighbours one has a threshold, the other one for each sequence
  for (const std::int64_t head_dim : {64, 96, 128}) {
    by_sequence = !by_sequence;
    for (const bool is_causal : {true, false}) {
      for (const std::int64_t window : {0, 300}) {
        by_sequence = !by_sequence;
        const CaseShape shape{.lengths = {{520, 520}, {40, 517}, {9, 5}, {0, 7}, {129, 300}, {128, 128}},
                              .heads = 4,
                              .kv_heads = 2,
                              .head_dim = head_dim,
                              .fill = Fill::kIntegers,
                              .storage = Storage::kPoisonedAligned,
                              .seed = ++seed};
        AttentionArgs args = with_blocks(stretched_args(shape), {128, 128}, 0.7);
        args.softmax_scale = 1.0 / 64;  // no weight of an attended key rounds to 0, not even in fp16
        args.is_causal = is_causal;
        args.sliding_window = window;
        if (by_sequence) {
          const std::vector<float> lambdas{0.7f, 0.9f, 0.5f, 0.0f, 0.8f, 0.7f};
          args.skip_softmax_threshold = std::nullopt;
          args.skip_softmax_lambda = at::tensor(lambdas);
        }
        const AttentionMaskResult reference = reference_result(args);
        counts.add(reference.result.stats);
        for (const TestedBackend& backend : tested_backends()) {
          for (const auto dtype : backend.dtypes) {
            INFO(backend << ", " << dtype << ": " << shape << "; window " << window << (is_causal ? ", causal" : "")
                         << (by_sequence ? ", a threshold for each sequence" : ""));
            CHECK(check_against(reference, in_dtype(args, dtype), backend, Fill::kIntegers) == "");
          }
        }
      }
    }
  }
  INFO(counts.skipped << " of " << counts.visible << " blocks skipped");
  CHECK(counts.some_but_not_all());
}

TEST_CASE("skip blocks: decode, caches of all lengths, blocks inside, across and beyond the chunks of keys", "[skip]") {
  BlockCounts counts;
  bool windowed = false;  // one of two neighbours is
  for (const std::int64_t bc : {8, 24, 40, 64, 128, 256, 512, 2048}) {
    windowed = !windowed;
    for (const std::int64_t head_dim : {64, 80, 128, 256}) {
      windowed = !windowed;
      const CaseShape shape{.lengths = {{1, 1}, {1, 700}, {1, 0}, {1, 256}, {1, 1500}, {1, 257}},
                            .heads = 8,
                            .kv_heads = 2,
                            .head_dim = head_dim,
                            .fill = Fill::kIntegers,
                            .storage = Storage::kPoisonedAligned,
                            .seed = static_cast<std::uint64_t>(bc + head_dim)};
      AttentionArgs args = with_blocks(decode_args(shape), {128, bc}, 0.5);
      args.sliding_window = windowed ? 300 : 0;
      const AttentionMaskResult reference = reference_result(args);
      counts.add(reference.result.stats);
      for (const TestedBackend& backend : backends_that_skip()) {
        for (const auto dtype : backend.dtypes) {
          INFO(backend << ", " << dtype << ": " << shape << "; blocks of " << bc << " keys"
                       << (windowed ? ", window 300" : ""));
          CHECK(check_against(reference, in_dtype(args, dtype), backend, Fill::kIntegers) == "");
        }
      }
    }
  }
  CHECK(counts.some_but_not_all());
}

TEST_CASE("skip blocks: decode with many heads of a key head and several rows, the same on both backends", "[skip]") {
  struct Group {
    std::int64_t heads, kv_heads, rows;
  };
  BlockCounts counts;
  for (const auto& [heads, kv_heads, rows] :
       {Group{8, 2, 1}, Group{8, 2, 5}, Group{71, 1, 1}, Group{40, 2, 3}, Group{8, 1, 16}, Group{34, 2, 1}}) {
    for (const std::int64_t head_dim : {64, 256}) {
      const CaseShape shape{.lengths = {{rows, 700}, {1, 1500}, {rows, rows}, {0, 9}},
                            .heads = heads,
                            .kv_heads = kv_heads,
                            .head_dim = head_dim,
                            .fill = Fill::kIntegers,
                            .storage = Storage::kPoisonedAligned,
                            .seed = static_cast<std::uint64_t>(heads + rows)};
      AttentionArgs args = with_blocks(decode_args(shape), {128, 128}, 0.5);
      const AttentionMaskResult reference = reference_result(args);
      counts.add(reference.result.stats);
      for (const auto dtype : {at::kHalf, at::kBFloat16}) {
        INFO(dtype << ": " << shape);
        const AttentionArgs call = in_dtype(args, dtype);
        CHECK(check_against(reference, call, tested_backend("sm80"), Fill::kIntegers) == "");
        const auto on_gpu = [&](const char* backend) {
          return attention_with_mask(on_device(on_backend(call, tested_backend(backend)), c10::DeviceType::CUDA));
        };
        const AttentionMaskResult expected = on_gpu("sm80"), actual = on_gpu("sm90");  // of one decode kernel
        CHECK(bitwise_difference(actual.result.output.cpu(), expected.result.output.cpu()) == "");
        CHECK(actual.result.stats.equal(expected.result.stats));
        CHECK(actual.mask.equal(expected.mask));
      }
    }
  }
  CHECK(counts.some_but_not_all());
}

TEST_CASE("skip blocks: decode that no decode kernel takes runs on sm80 by itself, and is refused by sm90", "[skip]") {
  // 17 rows of a sequence; too many partial results, with loose bounds, in phase auto and in phase decode
  AttentionArgs long_rows = with_blocks(decode_args({.lengths = {{17, 700}, {3, 40}},
                                                     .heads = 4,
                                                     .kv_heads = 2,
                                                     .head_dim = 64,
                                                     .dtype = at::kBFloat16,
                                                     .fill = Fill::kIntegers}),
                                        {128, 128}, 0.5);
  AttentionArgs many_results = with_blocks(decode_args({.lengths = std::vector<Lengths>(256, Lengths{1, 256}),
                                                        .heads = 32,
                                                        .kv_heads = 1,
                                                        .head_dim = 256,
                                                        .dtype = at::kBFloat16,
                                                        .fill = Fill::kIntegers}),
                                           {128, 128}, 0.5);
  many_results.max_input_len_k = many_results.k.size(0);
  AttentionArgs of_phase_auto = many_results;
  of_phase_auto.phase = "auto";
  for (const AttentionArgs* const call : {&long_rows, &many_results, &of_phase_auto}) {
    AttentionArgs args = on_device(*call, c10::DeviceType::CUDA);
    const auto result_of = [&](const char* backend) {
      args.backend = backend;
      const AttentionResult result = attention(args);
      return AttentionResult{result.output.cpu(), result.logsumexp.cpu(), result.stats.cpu()};
    };
    const AttentionResult expected = result_of("sm80"), result = result_of("auto");
    CHECK(bitwise_difference(result.output, expected.output) == "");
    CHECK(bitwise_difference(result.logsumexp, expected.logsumexp) == "");
    CHECK(result.stats.equal(expected.stats));
    CHECK(expected.stats.select(2, 1).sum().item<std::int64_t>() > 0);
    args.backend = "sm90";
    CHECK_THROWS_AS(attention(args), modelopt::Unsupported);
  }
}

TEST_CASE("skip blocks: few rows of a prefill decide together where they share a query block", "[skip]") {
  for (const TestedBackend& backend : backends_that_skip()) {
    BlockCounts counts;
    for (const Blocks& blocks : {Blocks{128, 128}, Blocks{2, 8}, Blocks{3, 64}, Blocks{1, 40}}) {
      for (const std::int64_t rows : {2, 4, 5}) {
        const CaseShape shape{.lengths = {{rows, 700}, {1, 301}, {rows, rows}, {rows, 50}},
                              .heads = 6,
                              .kv_heads = 2,
                              .head_dim = 64,
                              .dtype = at::kBFloat16,
                              .fill = Fill::kIntegers,
                              .seed = static_cast<std::uint64_t>(rows)};
        AttentionArgs args = with_blocks(stretched_args(shape, backend), blocks, 0.7);
        INFO(backend << ": " << shape << "; blocks " << blocks.br << " x " << blocks.bc);
        CHECK(check(args, backend, counts) == "");
        args.is_causal = false;
        args.phase = "decode";
        CHECK(check(args, backend, counts) == "");
      }
    }
    CHECK(counts.some_but_not_all());
  }
}

TEST_CASE("skip blocks: decode over a long cache, every chunk waiting for those before it", "[skip]") {
  for (const TestedBackend& backend : backends_that_skip()) {
    const CaseShape shape{.lengths = {{1, 60'000}, {1, 12'345}},
                          .heads = 4,
                          .kv_heads = 1,
                          .head_dim = 64,
                          .dtype = at::kBFloat16,
                          .fill = Fill::kIntegers};
    const AttentionArgs args = on_backend(with_blocks(decode_args(shape), {128, 128}, 0.9), backend);
    INFO(backend << ": " << shape);
    BlockCounts counts;
    CHECK(check(args, backend, counts) == "");
    CHECK(counts.some_but_not_all());
    const AttentionResult first = run(args), second = run(args);
    CHECK(bitwise_difference(first.output, second.output) == "");
  }
}

TEST_CASE("skip blocks: a threshold for each sequence, on the GPU; outside of [0, 1) its rows are NaN", "[skip]") {
  for (const TestedBackend& backend : backends_that_skip()) {
    for (const std::string phase : {"prefill", "decode"}) {
      const std::int64_t rows = phase == "decode" ? 1 : 130;
      AttentionArgs args = stretched_args({.lengths = std::vector<Lengths>(6, Lengths{rows, 700}),
                                           .heads = 4,
                                           .kv_heads = 2,
                                           .head_dim = 64,
                                           .dtype = at::kBFloat16,
                                           .fill = Fill::kIntegers},
                                          backend);
      args.phase = phase;
      const std::vector<float> lambdas{0.5f, 0.0f, 0.9999f, 1.0f, -0.5f, std::numeric_limits<float>::quiet_NaN()};
      AttentionArgs by_sequence = args;
      by_sequence.skip_softmax_lambda = at::tensor(lambdas);
      const AttentionResult result = run(by_sequence);
      const auto sequences = sequences_of(args);
      BlockCounts counts;
      for (std::size_t b = 0; b < lambdas.size(); ++b) {
        INFO(backend << ", " << phase << ", lambda " << lambdas[b]);
        const auto own = [&](const at::Tensor& t) { return t.narrow(0, sequences[b].q_start, sequences[b].q_len); };
        if (b >= 3) {
          CHECK(own(result.output).isnan().all().item<bool>());
          CHECK(own(result.logsumexp).isnan().all().item<bool>());
          continue;
        }
        args.skip_softmax_threshold = lambdas[b];
        const AttentionResult expected = run(args);
        CHECK(bitwise_difference(own(result.output), own(expected.output)) == "");
        CHECK(bitwise_difference(own(result.logsumexp), own(expected.logsumexp)) == "");
        const auto sequence = static_cast<std::int64_t>(b);
        CHECK(result.stats[sequence].equal(expected.stats[sequence]));
        counts.add(result.stats.narrow(0, sequence, 1));
      }
      CHECK(counts.some_but_not_all());
    }
  }
}

TEST_CASE("skip blocks: a threshold of 0 beside others gives the dense call's bits, in prefill", "[skip]") {
  const std::vector<float> lambdas{0.0f, 0.7f, 0.0f, 0.9999f, 0.0f};
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.dtypes) {
      for (const std::int64_t head_dim : {64, 128}) {
        INFO(backend << ", " << dtype << ", head_dim " << head_dim);
        AttentionArgs args = stretched_args({.lengths = {{700, 700}, {700, 700}, {65, 900}, {300, 1500}, {0, 40}},
                                             .heads = 4,
                                             .kv_heads = 2,
                                             .head_dim = head_dim,
                                             .dtype = dtype,
                                             .fill = Fill::kIntegers,
                                             .storage = Storage::kPoisonedAligned},
                                            backend);
        args = with_blocks(args, {128, 128}, 0.0);
        args.softmax_scale = 1.0 / 64;  // no weight of an attended key rounds to 0, not even in fp16
        AttentionArgs by_sequence = args;
        by_sequence.skip_softmax_threshold = std::nullopt;
        by_sequence.skip_softmax_lambda = at::tensor(lambdas);
        const AttentionResult result = run(by_sequence);
        const at::Tensor mask = attended_mask(by_sequence);
        const auto sequences = sequences_of(args);
        BlockCounts counts;
        for (const float lambda : {0.0f, 0.7f, 0.9999f}) {
          args.skip_softmax_threshold = lambda;
          const AttentionResult expected = run(args);
          const at::Tensor expected_mask = attended_mask(args);
          for (std::size_t b = 0; b < lambdas.size(); ++b) {
            if (lambdas[b] != lambda) continue;
            INFO("sequence " << b << ", lambda " << lambda);
            const auto own = [&](const at::Tensor& t) { return t.narrow(0, sequences[b].q_start, sequences[b].q_len); };
            CHECK(bitwise_difference(own(result.output), own(expected.output)) == "");
            CHECK(bitwise_difference(own(result.logsumexp), own(expected.logsumexp)) == "");
            CHECK(own(mask).equal(own(expected_mask)));
            CHECK(result.stats[b].equal(expected.stats[b]));
            CHECK((lambda > 0.0f || result.stats[b].select(1, 1).sum().item<std::int64_t>() == 0));
          }
        }
        counts.add(result.stats);
        CHECK(counts.some_but_not_all());
      }
    }
  }
}

TEST_CASE("skip blocks: values of skipped blocks are not read", "[skip]") {
  constexpr std::int64_t kFirst = 256, kKeys = 256;  // whole tiles of every kernel
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.dtypes) {
      for (const std::string phase : {"prefill", "decode"}) {
        for (const Blocks& blocks : {Blocks{128, 128}, Blocks{64, 64}, Blocks{16, 256}}) {
          if (!backend.skips && (phase == "decode" || blocks.br != 128)) continue;
          const std::int64_t rows = phase == "decode" ? 1 : 128;
          AttentionArgs args = on_backend(make_args({.lengths = {{rows, 1024}},
                                                     .heads = 4,
                                                     .kv_heads = 2,
                                                     .head_dim = 128,
                                                     .dtype = dtype,
                                                     .fill = Fill::kIntegers}),
                                          backend);
          args.phase = phase;
          args.q.select(2, 0).fill_(8);
          args.k.select(2, 0).fill_(8);
          args.k.narrow(0, kFirst, kKeys).zero_();  // at least 64 less 8 behind, scaled: 4 or more
          args.k.narrow(0, kFirst, kKeys).select(2, 0).fill_(-8);
          args = with_blocks(args, blocks, 0.5);
          INFO(backend << ", " << dtype << ", " << phase << ", blocks " << blocks.br << " x " << blocks.bc);
          const at::Tensor mask = attended_mask(args);
          REQUIRE_FALSE(mask.narrow(2, kFirst, kKeys).any().item<bool>());
          const AttentionResult clean = run(args);
          args.v.narrow(0, kFirst, kKeys).fill_(kNaN);
          CHECK(bitwise_difference(run(args).output, clean.output) == "");
        }
      }
    }
  }
}

TEST_CASE("skip blocks: a NaN or +inf score makes its rows NaN, even in a block that is skipped", "[skip]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const std::string phase : {"prefill", "decode"}) {
      if (!backend.skips && phase == "decode") continue;
      const std::int64_t rows = phase == "decode" ? 2 : 200;
      AttentionArgs args = stretched_args({.lengths = {{rows, 600}},
                                           .heads = 4,
                                           .kv_heads = 2,
                                           .head_dim = 64,
                                           .dtype = at::kBFloat16,
                                           .fill = Fill::kIntegers},
                                          backend);
      args.phase = phase;
      args.q.select(2, 0).fill_(1);
      args = with_blocks(args, backend.skips ? Blocks{16, 64} : Blocks{128, 128}, 0.5);
      args.softmax_scale = 1.0 / 64;
      for (const double bad : {kNaN, kInfinity}) {
        for (const std::int64_t at : {0, 140, 500, 599}) {  // key 140 is one of a stretch of zeros
          AttentionArgs poisoned = args;
          poisoned.k = args.k.clone();
          poisoned.k[at][0][0] = bad;
          const AttentionMaskResult expected = attention_with_mask(on_backend(poisoned, "cpu"));
          const AttentionResult actual = run(poisoned);
          INFO(backend << ", " << phase << ", " << bad << " at key " << at);
          const at::Tensor nan = expected.result.logsumexp.isnan();
          REQUIRE(nan.any().item<bool>());
          CHECK(actual.logsumexp.isnan().equal(nan));
          CHECK(actual.output.isnan().equal(expected.result.output.isnan()));
          const at::Tensor own = attended_mask(poisoned).logical_or(nan.unsqueeze(-1));
          CHECK(own.equal(unpack_mask(expected.mask, poisoned).logical_or(nan.unsqueeze(-1))));
        }
      }
    }
  }
}

TEST_CASE("skip blocks: statistics and the mask change no bit, and nothing skipped gives the bits of dense", "[skip]") {
  for (const TestedBackend& backend : backends_that_skip()) {
    for (const auto dtype : backend.dtypes) {
      for (const std::string phase : {"prefill", "decode"}) {
        const std::int64_t rows = phase == "decode" ? 1 : 150;
        AttentionArgs args = on_backend(
            make_args(
                {.lengths = {{rows, 700}, {rows, 150}}, .heads = 4, .kv_heads = 2, .head_dim = 64, .dtype = dtype}),
            backend);
        args.phase = phase;
        for (const std::int64_t n : {0, 2}) {
          INFO(backend << ", " << dtype << ", " << phase << ", " << n << ":4");
          args.sparsity_n = n;
          args.skip_softmax_threshold = std::nullopt;
          args.skip_softmax_br = 16;
          args.skip_softmax_bc = 40;
          const AttentionResult dense = run(args);
          args.skip_softmax_threshold = 1e-30;
          const AttentionResult all_kept = run(args);
          CHECK(bitwise_difference(all_kept.output, dense.output) == "");
          CHECK(bitwise_difference(all_kept.logsumexp, dense.logsumexp) == "");
          args.skip_softmax_threshold = 0.95;
          const AttentionResult bare = run(args);
          AttentionArgs counted = args;
          counted.collect_stats = true;
          const AttentionMaskResult recorded = attention_with_mask(on_device(counted, backend.device));
          CHECK(bitwise_difference(recorded.result.output.cpu(), bare.output) == "");
          CHECK(bitwise_difference(recorded.result.logsumexp.cpu(), bare.logsumexp) == "");
        }
      }
    }
  }
}
