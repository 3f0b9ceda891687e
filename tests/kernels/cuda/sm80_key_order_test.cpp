// Where the sm80 kernels put keys: host functions, walked through lane by lane.
#include <catch2/catch_test_macros.hpp>

#include <cstdint>
#include <set>

#include "kernels/cuda/sm80/key_order.h"
#include "kernels/cuda/sm80/select_2of4.h"
#include "kernels/selection.h"

using namespace modelopt::kernels::cuda::sm80;

TEST_CASE("a lane of the scores holds eight consecutive keys") {
  for (int c = 0; c < 4; ++c) {
    for (int h = 0; h < 4; ++h) {
      for (int e = 0; e < 2; ++e) CHECK(key_of_column(h, 2 * c + e) == 8 * c + 2 * h + e);
    }
  }
}

TEST_CASE("mma.sp reads a lane's groups at the rows of V where their keys are") {
  // Lane c hands in its groups g = 0, 1 (keys 8c + 4g …) as groups c and 4 + c of operand A: rows 4 (c + 4g) … of B.
  for (int c = 0; c < 4; ++c) {
    for (int g = 0; g < 2; ++g) {
      for (int i = 0; i < 4; ++i) CHECK(key_of_sparse_k(4 * (c + 4 * g) + i) == 8 * c + 4 * g + i);
    }
  }
}

TEST_CASE("the eight rows of every 8x8 matrix lie in eight different chunks") {
  const auto chunks = [](auto&& row_of) {
    std::set<int> different;
    for (int i = 0; i < 8; ++i) different.insert(row_of(i));
    return different.size();
  };
  for (int h = 0; h < 4; ++h) {
    CHECK(chunks([&](int i) { return key_swizzle(key_of_column(h, i)); }) == 8);
    CHECK(chunks([&](int i) { return key_swizzle(key_of_sparse_k(8 * h + i)); }) == 8);
    CHECK(chunks([&](int i) { return query_swizzle(8 * h + i); }) == 8);
  }
}

TEST_CASE("the swizzle of keys is linear, and neither four nor 32 keys further on change it") {
  for (int a = 0; a < 32; ++a) {
    for (int b = 0; b < 32; ++b) {
      if ((a & b) == 0) CHECK(key_swizzle(a + b) == (key_swizzle(a) ^ key_swizzle(b)));
    }
    CHECK(key_swizzle(a) == key_swizzle(a ^ 4));
    CHECK(key_swizzle(a) == key_swizzle(a + 32));
  }
}

TEST_CASE("2:4 selection for the sparse tensor cores is the rule, on the host too") {
  const float values[] = {-1.0f, 0.0f, 2.0f, 5.0f};
  for (int code = 0; code < 256; ++code) {
    const float x[4] = {values[code & 3], values[code >> 2 & 3], values[code >> 4 & 3], values[code >> 6]};
    std::uint32_t metadata = kMetadataBase;
    const KeptPair pair = keep_2_of_4(x[0], x[1], x[2], x[3], 0, metadata);
    const std::uint32_t i = metadata & 3, j = metadata >> 2 & 3;
    INFO("group " << x[0] << ' ' << x[1] << ' ' << x[2] << ' ' << x[3]);
    CHECK(i < j);
    CHECK((1u << i | 1u << j) == modelopt::kernels::keep_n_of_m<4>(x, 0xFu, 2));
    CHECK(pair.first == x[i]);
    CHECK(pair.second == x[j]);
  }
}
