// Prefix maxima over the chunks of a sequence while they are being computed (decoupled look-back: Merrill, Garland,
// "Single-pass Parallel Prefix Scan with Decoupled Look-back", 2016).
//
// Every chunk publishes its own maxima as soon as it has them, then looks back for those of the chunks before it, then
// publishes the maxima through itself, so that later ones need not look further. A chunk waits for chunks of smaller
// work numbers only. These are taken in order by warps that run, so that someone can always go on, however few warps
// are resident. Maxima of maxima: the result does not depend on who was seen in which state.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/decode/chunk_list.cuh"

namespace modelopt::kernels::cuda::decode {

enum ChunkState : unsigned { kUnknown = 0, kOwnMaxima = 1, kPrefixMaxima = 2 };

__device__ inline unsigned load_acquire(const unsigned* address) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}
__device__ inline void store_release(unsigned* address, unsigned value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}
__device__ inline float load_relaxed(const float* address) {
  float value;
  asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(value) : "l"(address) : "memory");
  return value;
}
__device__ inline void store_relaxed(float* address, float value) {
  asm volatile("st.relaxed.gpu.global.f32 [%0], %1;" ::"l"(address), "f"(value) : "memory");
}

/// The maxima of one chunk and of those before it. All lanes of a warp call it alike; lane r stands for row r.
class ChunkPrefix {
 public:
  /// `slot` is the chunk's place in the workspace, `index` its number in the sequence.
  __device__ ChunkPrefix(const DecodeParams& d, int lane, std::int64_t slot, int index)
      : d_(d), lane_(lane), slot_(slot), index_(index) {}

  /// Makes this chunk's maxima known.
  __device__ void publish(float maximum, ChunkState state) const {
    if (lane_ < d_.rows) store_relaxed(d_.chunk_maxima + slot_ * d_.rows + lane_, maximum);
    __threadfence();
    __syncwarp();
    if (lane_ == 0) store_release(d_.chunk_states + slot_, state);
  }

  /// The lane's row's maximum over all chunks before this one; -inf if there is none.
  [[nodiscard]] __device__ float before() const {
    float prefix = kNegativeInfinity<float>;
    for (int nearest = 1; nearest <= index_; nearest += kWarp) {
      const int distance = nearest + lane_;  // each lane looks at one chunk
      const bool exists = distance <= index_;
      const std::int64_t slot = exists ? slot_ - std::int64_t{distance} * d_.attention.kv_heads : slot_;
      unsigned state = kOwnMaxima;
      while (exists && (state = load_acquire(d_.chunk_states + slot)) == kUnknown) __nanosleep(64);
      __syncwarp();
      const unsigned complete = __ballot_sync(kAllLanes, exists && state == kPrefixMaxima);
      const bool counts = exists && (complete == 0 || lane_ < __ffs(static_cast<int>(complete)));
      for (int row = 0; row < d_.rows; ++row) {
        float maximum = counts ? load_relaxed(d_.chunk_maxima + slot * d_.rows + row) : kNegativeInfinity<float>;
        for (int step = 16; step > 0; step /= 2) {
          maximum = fmaxf(maximum, __shfl_xor_sync(kAllLanes, maximum, step));
        }
        if (lane_ == row) prefix = fmaxf(prefix, maximum);
      }
      if (complete != 0) break;
    }
    return prefix;
  }

 private:
  const DecodeParams& d_;
  int lane_;
  std::int64_t slot_;
  int index_;
};

}  // namespace modelopt::kernels::cuda::decode
