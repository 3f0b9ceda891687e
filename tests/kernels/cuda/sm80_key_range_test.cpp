// Visibility and denseness of eight keys at once are the rules for single keys.
#include <catch2/catch_test_macros.hpp>

#include <cstdint>

#include "kernels/cuda/attention_params.h"
#include "kernels/cuda/sm80/key_range.h"

namespace {

using modelopt::kernels::cuda::AttentionParams;
using modelopt::kernels::cuda::dense_by_position;
using modelopt::kernels::cuda::visible_by_position;
namespace sm80 = modelopt::kernels::cuda::sm80;

constexpr int kLengths[] = {0, 1, 7, 8, 9, 16, 21};

/// Runs of which one of the two gives other bits than the rule, over all rows and runs of short sequences.
int different_runs(const AttentionParams& params) {
  int different = 0;
  for (const int k_len : kLengths) {
    for (int p = -20; p < k_len; ++p) {
      for (int first = 0; first < 32; first += sm80::kKeysPerThread) {
        std::uint32_t visible = 0, dense = 0;
        for (int i = 0; i < sm80::kKeysPerThread; ++i) {
          visible |= static_cast<std::uint32_t>(visible_by_position(params, p, first + i, k_len)) << i;
          dense |= static_cast<std::uint32_t>(dense_by_position(params, p, first + i)) << i;
        }
        different += sm80::visible_keys(params, p, first, k_len) != visible;
        different += sm80::dense_keys(params, p, first) != dense;
      }
    }
  }
  return different;
}

}  // namespace

TEST_CASE("eight keys at once: causal or not, every window and number of sinks") {
  for (const bool causal : {false, true}) {
    for (const int size : {0, 1, 3, 8, 9, 15, 16, 40, 1 << 30}) {
      AttentionParams params;
      params.is_causal = causal;
      params.sliding_window = params.dense_window_size = params.num_sink_tokens = size;
      INFO("causal " << causal << ", size " << size);
      CHECK(different_runs(params) == 0);
    }
  }
}

TEST_CASE("eight keys at once: the longest sequences") {
  constexpr int kLongest = 1 << 30;
  AttentionParams params;
  params.sliding_window = params.dense_window_size = kLongest;
  const int last = kLongest - sm80::kKeysPerThread;
  CHECK(sm80::visible_keys(params, kLongest - 1, last, kLongest) == sm80::kAllKeys);
  CHECK(sm80::visible_keys(params, kLongest - 1, 0, kLongest) == sm80::kAllKeys);
  CHECK(sm80::visible_keys(params, -kLongest, 0, 0) == 0);
  CHECK(sm80::dense_keys(params, -kLongest, 0) == 0);
}
