// Prefix maxima over the chunks of a sequence while they are being computed (decoupled look-back: Merrill, Garland,
// "Single-pass Parallel Prefix Scan with Decoupled Look-back", 2016).
//
// Every chunk publishes its own maxima as soon as it has them. To decide, it looks back for those of the chunks before
// it, and publishes the maxima through itself, so that later ones need not look further. A chunk waits for chunks of
// smaller work numbers only. These are taken in order by warps that run and score what they have taken before they wait
// for anything, so that someone can always go on, however few warps are resident. Maxima of maxima: the result does not
// depend on who was seen in which state.
//
// A value is its own flag: no maximum is NaN, and what is not known yet has all bits set.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/decode/chunk_list.cuh"

namespace modelopt::kernels::cuda::decode {

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

  /// Makes this chunk's own maxima known.
  __device__ void publish_own(float maximum) const { publish(d_.chunk_maxima, maximum); }
  /// Makes the maxima through this chunk known.
  __device__ void publish_prefix(float maximum) const { publish(d_.prefix_maxima, maximum); }

  /// The lane's row's maximum over all chunks before this one; -inf if there is none.
  [[nodiscard]] __device__ float before() const {
    // Lanes lie over rows, rounded up to a power of two, and chunks; each has several chunks, whose loads are under way
    // together.
    const int row_lanes = 1 << (32 - __clz(d_.rows - 1));
    const int chunk_lanes = kWarp / row_lanes;
    const int row = lane_ % row_lanes;
    float prefix = kNegativeInfinity<float>;
    for (int done = 0; done < index_; done += kLoads * chunk_lanes) {
      const int first = done + lane_ / row_lanes + 1;
      const int beyond = done + kLoads * chunk_lanes + 1;
      float own[kLoads];
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int distance = first + i * chunk_lanes;
        own[i] = row < d_.rows && distance <= index_ ? load(d_.chunk_maxima, distance, row) : kNegativeInfinity<float>;
      }
      const bool ends = beyond > index_ || row >= d_.rows;
      const float rest = ends ? kNegativeInfinity<float> : load(d_.prefix_maxima, beyond, row);
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        while (own[i] != own[i]) {
          __nanosleep(64);
          own[i] = load(d_.chunk_maxima, first + i * chunk_lanes, row);
        }
        prefix = fmaxf(prefix, own[i]);
      }
      __syncwarp();
      if (__all_sync(kAllLanes, rest == rest)) {
        prefix = fmaxf(prefix, rest);
        break;
      }
    }
    for (int step = row_lanes; step < kWarp; step *= 2) {
      prefix = fmaxf(prefix, __shfl_xor_sync(kAllLanes, prefix, step));
    }
    return prefix;
  }

 private:
  static constexpr int kLoads = 8;
  static_assert(kRowBlock <= kWarp);

  __device__ void publish(float* maxima, float maximum) const {
    if (lane_ < d_.rows) store_relaxed(maxima + slot_ * d_.rows + lane_, maximum);
  }

  [[nodiscard]] __device__ float load(const float* maxima, int distance, int row) const {
    return load_relaxed(maxima + (slot_ - std::int64_t{distance} * d_.parts) * d_.rows + row);
  }

  const DecodeParams& d_;
  int lane_;
  std::int64_t slot_;
  int index_;
};

}  // namespace modelopt::kernels::cuda::decode
