// A small subset for compute-sanitizer, under which everything is a hundred times slower: every kernel family, with
// tiles that end in the middle, once each.
#include <ATen/ops/tensor.h>

#include <catch2/catch_test_macros.hpp>

#include "kernels/calibrate_call.h"

using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;

namespace {

CaseShape small_shape(const TestedBackend& backend, const std::vector<Lengths>& lengths, std::int64_t head_dim,
                      at::ScalarType dtype, Storage storage) {
  return shape_for(
      backend,
      {.lengths = lengths, .heads = 2, .kv_heads = 1, .head_dim = head_dim, .dtype = dtype, .storage = storage});
}

}  // namespace

TEST_CASE("sanitizer: every kernel family once", "[sanitizer]") {
  const std::vector<std::vector<Lengths>> batches{{{70, 70}, {1, 33}, {5, 0}, {130, 200}}, {{1, 700}, {1, 3}}};
  const std::vector<Setting> settings{{},
                                      {.sparsity_n = 2, .num_sink_tokens = 3, .dense_window_size = 20},
                                      {.is_causal = false, .sparsity_n = 1, .dense_window_size = 0},
                                      {.sparsity_n = 4, .sparsity_m = 8, .sliding_window = 90}};
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.dtypes) {
      for (const std::int64_t head_dim : {64, 72, 128, 256}) {
        for (const auto& lengths : batches) {
          const CaseShape shape = small_shape(backend, lengths, head_dim, dtype, Storage::kPoisoned);
          const AttentionArgs args = make_args(shape);
          for (const Setting& setting : settings) {
            if (lengths.front().q == 1 && setting.sparsity_n > 0) continue;  // phase auto: decode is dense
            INFO(backend << ": " << shape << "; " << setting);
            CHECK(run(on_backend(with_setting(args, setting), backend)).output.isfinite().all().item<bool>());
          }
        }
      }
    }
  }
}

TEST_CASE("sanitizer: every kernel that skips blocks once", "[sanitizer]") {
  const std::vector<std::vector<Lengths>> batches{{{70, 70}, {1, 33}, {5, 0}, {130, 200}}, {{1, 700}, {1, 3}}};
  const std::vector<Setting> settings{{.lambda = 0.5, .br = 16, .bc = 40},
                                      {.sparsity_n = 2, .dense_window_size = 20, .lambda = 0.7, .br = 128, .bc = 64}};
  for (const TestedBackend& backend : backends_that_skip()) {
    for (const auto dtype : backend.dtypes) {
      for (const std::int64_t head_dim : {64, 72, 256}) {
        for (const auto& lengths : batches) {
          const CaseShape shape = small_shape(backend, lengths, head_dim, dtype, Storage::kPoisonedAligned);
          for (const Setting& setting : settings) {
            AttentionArgs args = on_backend(with_setting(make_args(shape), setting), backend);
            args.collect_stats = true;
            INFO(backend << ": " << shape << "; " << setting);
            CHECK(run(args).output.isfinite().all().item<bool>());
            if (setting.sparsity_n > 0) continue;
            CHECK(run_calibrate(args, {0.0, 0.5}).counts.sum().item<std::int64_t>() > 0);
          }
        }
      }
    }
  }
}

TEST_CASE("sanitizer: blocks of 128 x 128 once, with one threshold and one of each sequence", "[sanitizer]") {
  const std::vector<std::vector<Lengths>> batches{{{300, 300}, {130, 700}, {5, 0}, {1, 400}}, {{1, 700}, {1, 400}}};
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.dtypes) {
      for (const std::int64_t head_dim : {72, 128}) {
        BlockCounts counts;
        for (const auto& lengths : batches) {
          const CaseShape shape = small_shape(backend, lengths, head_dim, dtype, Storage::kPoisonedAligned);
          AttentionArgs args = on_backend(with_setting(make_args(shape), {.lambda = 0.9}), backend);
          for (const SequenceRows& rows : sequences_of(args)) {  // a block that lies behind the one before
            if (rows.k_len >= 256) args.k.narrow(0, rows.k_start + 128, 128).zero_();
          }
          AttentionArgs by_sequence = args;
          by_sequence.skip_softmax_threshold = std::nullopt;
          std::vector<float> lambdas(lengths.size(), 0.9f);
          lambdas.front() = 0.0f;
          by_sequence.skip_softmax_lambda = at::tensor(lambdas);
          for (AttentionArgs* call : {&args, &by_sequence}) {
            for (const bool collect_stats : {false, true}) {
              call->collect_stats = collect_stats;
              INFO(backend << ": " << shape << ", statistics " << collect_stats);
              const AttentionResult result = run(*call);
              CHECK(result.output.isfinite().all().item<bool>());
              if (collect_stats) counts.add(result.stats);
            }
          }
        }
        CHECK(counts.some_but_not_all());
      }
    }
  }
}

TEST_CASE("sanitizer: every backward kernel once", "[sanitizer]") {
  const std::vector<Setting> settings{{.sliding_window = 90},
                                      {.sparsity_n = 2, .num_sink_tokens = 3, .dense_window_size = 20},
                                      {.is_causal = false, .sparsity_n = 4, .sparsity_m = 8, .dense_window_size = 0}};
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.dtypes) {
      for (const std::int64_t head_dim : {64, 72, 256}) {
        const CaseShape shape =
            small_shape(backend, {{70, 70}, {1, 33}, {5, 0}, {130, 200}}, head_dim, dtype, Storage::kPoisoned);
        for (const Setting& setting : settings) {
          AttentionArgs args = on_device(on_backend(with_setting(make_args(shape), setting), backend), backend.device);
          for (at::Tensor* t : {&args.q, &args.k, &args.v}) *t = t->detach().requires_grad_(true);
          attention(args).output.sum().backward();
          INFO(backend << ": " << shape << "; " << setting);
          for (const at::Tensor* t : {&args.q, &args.k, &args.v}) CHECK(t->grad().isfinite().all().item<bool>());
        }
      }
    }
  }
}
