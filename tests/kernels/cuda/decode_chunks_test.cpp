// The chunks of decode against a walk through all pairs of rows and keys. Plain integers: no GPU needed.
#include <catch2/catch_test_macros.hpp>

#include <algorithm>

#include "kernels/cuda/decode/decode_params.h"

using namespace modelopt::kernels::cuda;
using namespace modelopt::kernels::cuda::decode;

TEST_CASE("decode: chunks cover exactly the span of keys that some row sees", "[decode]") {
  for (const bool causal : {true, false}) {
    for (const int window : {0, 1, 7, 40, 1000}) {
      for (const int q_len : {0, 1, 3, 16}) {
        for (int k_len = 0; k_len < 90; ++k_len) {
          AttentionParams params;
          params.is_causal = causal;
          params.sliding_window = window;
          const SequenceRange sequence{.q_len = q_len, .k_len = k_len};
          int first = k_len, last = -1;
          for (int i = 0; i < q_len; ++i) {
            for (int j = 0; j < k_len; ++j) {
              if (!visible_by_position(params, i + k_len - q_len, j, k_len)) continue;
              first = std::min(first, j);
              last = std::max(last, j);
            }
          }
          const KeySpan keys = visible_keys(params, sequence);
          INFO("causal " << causal << ", window " << window << ", Lq " << q_len << ", Lk " << k_len);
          CHECK((keys.begin < keys.end) == (first <= last));
          for (const int chunk_log2 : {0, 2, 4, 8, 30}) {
            const int expected = first <= last ? (last >> chunk_log2) - (first >> chunk_log2) + 1 : 0;
            CHECK(chunk_count(keys, chunk_log2) == expected);
            if (expected > 0) CHECK(first_chunk(keys, chunk_log2) == first >> chunk_log2);
          }
        }
      }
    }
  }
}

TEST_CASE("decode: the longest sequences do not overflow", "[decode]") {
  constexpr int kLongest = 1 << 30;
  AttentionParams params;
  const SequenceRange sequence{.q_len = 1, .k_len = kLongest};
  CHECK(chunk_count(visible_keys(params, sequence), kChunkKeysLog2) == kLongest >> kChunkKeysLog2);
  CHECK(chunk_count(visible_keys(params, sequence), 30) == 1);
  params.sliding_window = kLongest;
  CHECK(visible_keys(params, {.q_len = 16, .k_len = 3}).begin == 0);
  CHECK(visible_keys(params, sequence).end == kLongest);
}
