// Random numbers that are the same with every compiler and standard library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace modelopt::calibration {

/// Counter-based generator: number i of a stream is a hash of (seed, stream, i), the output function of SplitMix64
/// (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014). Streams of different numbers are
/// independent, so that adding a sample never changes another one.
class CounterRandom {
 public:
  CounterRandom(std::uint64_t seed, std::uint64_t stream) : state_(mix(seed + kGamma) ^ mix(mix(stream) + kGamma)) {}

  [[nodiscard]] std::uint64_t next() { return mix(state_ += kGamma); }

  /// Uniform on 0 .. bound − 1, without bias: numbers of the incomplete last interval are drawn again. bound >= 1.
  [[nodiscard]] std::uint64_t below(std::uint64_t bound) {
    const std::uint64_t incomplete = (0 - bound) % bound;  // 2^64 modulo bound
    std::uint64_t number = next();
    while (number < incomplete) number = next();
    return number % bound;
  }

  /// Uniform on [0, 1), a multiple of 2^-53.
  [[nodiscard]] double uniform() { return static_cast<double>(next() >> 11U) * 0x1p-53; }

  /// Fisher and Yates.
  template <typename T>
  void shuffle(std::vector<T>& items) {
    for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }

 private:
  static constexpr std::uint64_t kGamma = 0x9E3779B97F4A7C15U;

  static constexpr std::uint64_t mix(std::uint64_t x) {
    x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9U;
    x = (x ^ (x >> 27U)) * 0x94D049BB133111EBU;
    return x ^ (x >> 31U);
  }

  std::uint64_t state_;
};

}  // namespace modelopt::calibration
