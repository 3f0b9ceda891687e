// Floats as integers of the same order, on the host.
#include "kernels/cuda/ordered_bits.h"

#include <catch2/catch_test_macros.hpp>

#include <iterator>
#include <limits>

using namespace modelopt::kernels::cuda;

TEST_CASE("ordered bits keep the order of floats, and come back as they were") {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr float kAscending[] = {-kInf, -3e38f, -5.0f, -1e-30f, -1e-45f, -0.0f, 0.0f, 1e-45f, 2.5f, 3e38f, kInf};
  for (std::size_t i = 0; i < std::size(kAscending); ++i) {
    CHECK(from_ordered_bits(ordered_bits(kAscending[i])) == kAscending[i]);
    if (i > 0) CHECK(ordered_bits(kAscending[i - 1]) < ordered_bits(kAscending[i]));
  }
}

TEST_CASE("ordered bits are never 0, and NaN is as large as +inf") {
  constexpr float kInf = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();
  CHECK(ordered_bits(-kInf) > 0);
  CHECK(ordered_bits(kNaN) == ordered_bits(kInf));
  CHECK(ordered_bits(-kNaN) == ordered_bits(kInf));
}
