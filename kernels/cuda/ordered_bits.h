// Floats as unsigned integers of the same order, so that atomicMax finds the largest one.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/selection.h"  // MODELOPT_HOST_DEVICE, kNegativeInfinity

namespace modelopt::kernels::cuda {

/// a < b iff ordered_bits(a) < ordered_bits(b); NaN counts as +inf. Never 0, which is free to say "none yet".
[[nodiscard]] MODELOPT_HOST_DEVICE constexpr std::uint32_t ordered_bits(float x) {
  constexpr std::uint32_t kSign = 0x80000000u;
  const auto bits = std::bit_cast<std::uint32_t>(x == x ? x : -kNegativeInfinity<float>);
  return (bits & kSign) != 0 ? ~bits : bits | kSign;
}

/// The float whose ordered_bits() they are.
[[nodiscard]] MODELOPT_HOST_DEVICE constexpr float from_ordered_bits(std::uint32_t ordered) {
  constexpr std::uint32_t kSign = 0x80000000u;
  return std::bit_cast<float>((ordered & kSign) != 0 ? ordered & ~kSign : ~ordered);
}

}  // namespace modelopt::kernels::cuda
