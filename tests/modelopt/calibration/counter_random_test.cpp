#include <modelopt/calibration/counter_random.h>

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

using modelopt::calibration::CounterRandom;

TEST_CASE("stream 0 of seed 0 is SplitMix64 from 0, whose numbers are published") {
  CounterRandom random(0, 0);
  const std::array first = {random.next(), random.next(), random.next()};
  CHECK(first == std::array<std::uint64_t, 3>{0xe220a8397b1dcdafU, 0x6e789e6aa1b965f4U, 0x06c45d188009454fU});
}

TEST_CASE("seeds and streams differ") {
  const std::uint64_t number = CounterRandom(1, 2).next();
  CHECK(number != CounterRandom(2, 1).next());
  CHECK(number != CounterRandom(1, 3).next());
  CHECK(number != CounterRandom(0, 2).next());
  CHECK(number == CounterRandom(1, 2).next());
}

TEST_CASE("numbers below a bound are uniform") {
  CounterRandom random(7, 0);
  std::array<int, 6> counts{};
  for (int i = 0; i < 6000; ++i) ++counts.at(random.below(6));
  // Chi-squared with 5 degrees of freedom exceeds 20.5 with probability 0.001; the seed is fixed.
  double chi_squared = 0.0;
  for (const int count : counts) chi_squared += (count - 1000) * (count - 1000) / 1000.0;
  CHECK(chi_squared < 20.5);
  CHECK(random.below(1) == 0);
}

TEST_CASE("uniform numbers are at least 0 and below 1, with a mean of a half") {
  CounterRandom random(3, 1);
  double sum = 0.0;
  for (int i = 0; i < 10000; ++i) {
    const double number = random.uniform();
    CHECK((number >= 0.0 && number < 1.0));
    sum += number;
  }
  CHECK(std::abs(sum / 10000.0 - 0.5) < 0.01);  // three standard errors are 0.0087
}

TEST_CASE("a shuffle is a permutation") {
  std::vector<int> items(100);
  for (int i = 0; i < 100; ++i) items[static_cast<std::size_t>(i)] = i;
  std::vector<int> shuffled = items;
  CounterRandom(5, 5).shuffle(shuffled);
  CHECK(shuffled != items);
  std::sort(shuffled.begin(), shuffled.end());
  CHECK(shuffled == items);
}
