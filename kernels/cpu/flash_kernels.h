// The table of kernels of one instruction set.
#pragma once

#include "kernels/cpu/attention_call.h"
#include "kernels/cpu/flash_attention.h"

namespace modelopt::kernels::cpu {

template <class V, typename Element>
constexpr AttentionKernel flash_kernel() {
  using Flash = FlashAttention<V, Element>;
  return {.block_lanes = Flash::kBlockLanes, .scratch_bytes = &Flash::scratch_bytes, .run = &Flash::run, .calibrate = &Flash::calibrate};
}

template <class FloatVec, class DoubleVec>
constexpr AttentionKernels flash_kernels() {
  return {.float32 = flash_kernel<FloatVec, float>(),
          .bfloat16 = flash_kernel<FloatVec, BFloat16>(),
          .float16 = flash_kernel<FloatVec, Half>(),
          .float64 = flash_kernel<DoubleVec, double>()};
}

}  // namespace modelopt::kernels::cpu
