// Small device functions that all kernel families share.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace modelopt::kernels::cuda {

/// floor(a / b) for b > 0.
__device__ inline int floor_div(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

/// 2^x; 2^0 is exactly 1 and 2^-inf exactly 0.
__device__ inline float exp2_approx(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

/// Two values as 16-bit elements, `low` in the low half.
template <typename Element>
__device__ inline std::uint32_t pack(float low, float high) {
  std::uint32_t result;
  if constexpr (std::is_same_v<Element, __half>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  }
  return result;
}

}  // namespace modelopt::kernels::cuda
