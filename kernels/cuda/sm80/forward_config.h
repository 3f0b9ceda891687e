// Tile sizes of the forward kernel; forward_kernel.cuh has the table.
#pragma once

#include "kernels/cuda/sm80/key_order.h"

namespace modelopt::kernels::cuda::sm80 {

/// kSparse: 2:4 and 1:4 on the sparse tensor cores. kGeneral: any alignment, any N:M, attended mask, statistics and
/// skip-softmax; it gives the same bits as the kernel without them.
template <typename Element_, int kHeadDim_, bool kSparse_, bool kGeneral_>
struct ForwardConfig {
  using Element = Element_;
  static constexpr int kHeadDim = kHeadDim_;  ///< padded with zeros in shared memory
  static constexpr bool kSparse = kSparse_;
  static constexpr bool kGeneral = kGeneral_;

  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kRowBlocks = kHeadDim <= 128 ? 2 : 1;  ///< 16-row blocks of a warp
  static constexpr int kWarpRows = 16 * kRowBlocks;
  static constexpr int kRows = kWarps * kWarpRows;
  static constexpr int kKeys = 64;
  static constexpr int kKeyBlocks = kKeys / kKeyBlock;
  static constexpr int kSlots = kHeadDim <= 128 ? 3 : 2;
  static constexpr int kBlocksPerSm = kHeadDim == 64 && !kSparse && !kGeneral ? 3 : 2;

  static constexpr int kPitch = 2 * kHeadDim;  ///< bytes of a row in shared memory
  static constexpr int kTileBytes = kKeys * kPitch;
  static constexpr int kSharedBytes = kRows * kPitch + kSlots * kTileBytes;

  static constexpr int kScoreColumns = kKeys / 8;  ///< 8-column blocks of the scores
  static constexpr int kOutputColumns = kHeadDim / 8;
};

}  // namespace modelopt::kernels::cuda::sm80
