// The chunks of all sequences as one list, in the order of the batch. A warp finds its way in it without a list in
// memory: each lane knows the chunks of one of 32 sequences.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/decode/decode_params.h"

namespace modelopt::kernels::cuda::decode {

inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr int kWarp = 32;

/// In split_keys: merge_chunks may be put in place as soon as there is room. In merge_chunks: waits for the end of
/// split_keys and all that it wrote. All blocks of split_keys are resident, so that none can be kept out by one that
/// waits.
__device__ inline void allow_next_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ inline void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Chunks of sequence b; none beyond the batch.
__device__ inline int chunks_of(const AttentionParams& p, int b, int chunk_log2) {
  return b < p.batch ? chunk_count(visible_keys(p, sequence_range(p, b)), chunk_log2) : 0;
}

__device__ inline int count_chunks(const AttentionParams& p, int lane, int chunk_log2) {
  int count = 0;
  for (int b = lane; b < p.batch; b += kWarp) count += chunks_of(p, b, chunk_log2);
  return __reduce_add_sync(kAllLanes, count);
}

/// The smallest chunk, from kChunkKeysLog2 on, with which the workspace has room for all. It has for one per sequence.
__device__ inline int chunk_log2_that_fits(const DecodeParams& d, int lane) {
  int chunk_log2 = kChunkKeysLog2;
  while (!d.all_fit && chunk_log2 < 30 && count_chunks(d.attention, lane, chunk_log2) > d.capacity) ++chunk_log2;
  return chunk_log2;
}

/// Walks forward through the list. All lanes of a warp do the same.
class ChunkCursor {
 public:
  struct Chunk {
    int sequence;
    int index;  ///< in the sequence, from its first chunk with visible keys
  };

  __device__ ChunkCursor(const AttentionParams& p, int lane, int chunk_log2)
      : params_(p), lane_(lane), chunk_log2_(chunk_log2) {
    load();
  }

  /// False beyond the end of the list. `position` never falls from call to call.
  __device__ bool seek(int position, Chunk& chunk) {
    while (position >= before_ + __shfl_sync(kAllLanes, through_, kWarp - 1)) {
      if (first_ + kWarp >= params_.batch) return false;
      before_ += __shfl_sync(kAllLanes, through_, kWarp - 1);
      first_ += kWarp;
      load();
    }
    const int in_block = position - before_;
    const int owner = __ffs(static_cast<int>(__ballot_sync(kAllLanes, through_ > in_block))) - 1;
    chunk.sequence = first_ + owner;
    chunk.index = in_block - __shfl_sync(kAllLanes, through_ - own_, owner);
    return true;
  }

  /// Writes how many chunks lie before each sequence, and after the last one how many there are.
  __device__ void write_offsets(int* offsets) {
    for (;; before_ += __shfl_sync(kAllLanes, through_, kWarp - 1), first_ += kWarp, load()) {
      const int b = first_ + lane_;
      if (b < params_.batch) offsets[b] = before_ + through_ - own_;
      if (b == params_.batch - 1) offsets[params_.batch] = before_ + through_;
      if (first_ + kWarp >= params_.batch) return;
    }
  }

 private:
  __device__ void load() {
    own_ = chunks_of(params_, first_ + lane_, chunk_log2_);
    through_ = own_;
    for (int distance = 1; distance < kWarp; distance *= 2) {
      const int other = __shfl_up_sync(kAllLanes, through_, distance);
      if (lane_ >= distance) through_ += other;
    }
  }

  const AttentionParams& params_;
  int lane_;
  int chunk_log2_;
  int first_ = 0;    ///< sequence of lane 0
  int before_ = 0;   ///< chunks of the sequences before it
  int own_ = 0;      ///< chunks of this lane's sequence
  int through_ = 0;  ///< chunks of the sequences from first_ to this lane's
};

}  // namespace modelopt::kernels::cuda::decode
