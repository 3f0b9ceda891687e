// The 2:4 kernel for devices whose sparse tensor cores want the kept pair of a group in order: on all others it does
// not run unless it is asked for.
#include <catch2/catch_test_macros.hpp>

#include "kernels/attention_checks.h"
#include "kernels/cuda/sm90/unordered_metadata.h"

using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;

namespace {

class OrderedPairs {
 public:
  OrderedPairs() { cuda::sm90::refuse_unordered_metadata(true); }
  ~OrderedPairs() { cuda::sm90::refuse_unordered_metadata(false); }
  OrderedPairs(const OrderedPairs&) = delete;
  OrderedPairs& operator=(const OrderedPairs&) = delete;
};

}  // namespace

TEST_CASE("ordered pairs: 2:4 in bf16 against the reference", "[ordered]") {
  const OrderedPairs ordered;
  REQUIRE_FALSE(cuda::sm90::unordered_metadata_works());
  const TestedBackend& backend = tested_backend("sm90");
  for (const std::int64_t head_dim : {64, 96, 128, 256}) {
    for (const auto fill : {Fill::kIntegers, Fill::kNormal}) {
      for (const bool causal : {true, false}) {
        for (const std::int64_t dense : {0, 67}) {
          const CaseShape shape{.lengths = {{700, 700}, {129, 1000}, {1, 1}},
                                .heads = 4,
                                .kv_heads = 2,
                                .head_dim = head_dim,
                                .dtype = at::kBFloat16,
                                .fill = fill};
          const Setting setting{
              .is_causal = causal, .sparsity_n = 2, .num_sink_tokens = dense, .dense_window_size = dense};
          INFO(shape << "; " << setting);
          AttentionArgs args = with_setting(make_args(shape), setting);
          args.phase = "prefill";
          CHECK(check_against_reference(args, backend, fill) == "");
        }
      }
    }
  }
}

TEST_CASE("ordered pairs: the mask and the statistics of both kernels are the same", "[ordered]") {
  const AttentionArgs host = with_setting(
      make_args({.lengths = {{900, 900}}, .heads = 2, .kv_heads = 2, .head_dim = 128, .dtype = at::kBFloat16}),
      {.sparsity_n = 2, .dense_window_size = 64});
  AttentionArgs args = on_device(on_backend(host, "sm90"), tested_backend("sm90").device);
  args.phase = "prefill";
  args.collect_stats = true;
  const AttentionMaskResult expected = attention_with_mask(args);
  const OrderedPairs ordered;
  const AttentionMaskResult actual = attention_with_mask(args);
  CHECK(actual.mask.equal(expected.mask));
  CHECK(actual.result.stats.equal(expected.result.stats));
}
