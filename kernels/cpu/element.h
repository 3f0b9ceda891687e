// Element types of q, k, v as they lie in memory, and rows of them to and from the scores' type.
#pragma once

#include <cstdint>
#include <cstring>

namespace modelopt::kernels::cpu {

struct BFloat16 {
  std::uint16_t bits;
};
struct Half {
  std::uint16_t bits;
};

/// Rows of Element to and from rows of V::Scalar; rounding is to nearest, ties to even.
template <class V, typename Element>
struct RowConversion;

template <class V>
struct RowConversion<V, typename V::Scalar> {
  using T = typename V::Scalar;
  static void load(const T* source, int count, T* row) { std::memcpy(row, source, sizeof(T) * count); }
  static void store(const T* row, int count, T* target) { std::memcpy(target, row, sizeof(T) * count); }
};

template <class V>
struct RowConversion<V, BFloat16> {
  static void load(const BFloat16* source, int count, float* row) {
    for (int i = 0; i < count; ++i) {
      const std::uint32_t bits = static_cast<std::uint32_t>(source[i].bits) << 16;
      std::memcpy(row + i, &bits, sizeof(bits));
    }
  }
  static void store(const float* row, int count, BFloat16* target) {
    for (int i = 0; i < count; ++i) {
      std::uint32_t bits;
      std::memcpy(&bits, row + i, sizeof(bits));
      const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
      target[i].bits = static_cast<std::uint16_t>(row[i] == row[i] ? rounded : 0x7fc0u);
    }
  }
};

template <class V>
struct RowConversion<V, Half> {
  static void load(const Half* source, int count, float* row) {
    int i = 0;
    for (; i + V::kLanes <= count; i += V::kLanes) V::store(row + i, V::from_half(&source[i].bits));
    if (i == count) return;
    std::uint16_t rest[V::kLanes] = {};
    std::memcpy(rest, source + i, sizeof(Half) * (count - i));
    float converted[V::kLanes];
    V::store(converted, V::from_half(rest));
    std::memcpy(row + i, converted, sizeof(float) * (count - i));
  }
  static void store(const float* row, int count, Half* target) {
    int i = 0;
    for (; i + V::kLanes <= count; i += V::kLanes) V::to_half(&target[i].bits, V::load(row + i));
    if (i == count) return;
    float rest[V::kLanes] = {};
    std::memcpy(rest, row + i, sizeof(float) * (count - i));
    std::uint16_t converted[V::kLanes];
    V::to_half(converted, V::load(rest));
    std::memcpy(target + i, converted, sizeof(Half) * (count - i));
  }
};

}  // namespace modelopt::kernels::cpu
