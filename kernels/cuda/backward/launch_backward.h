// The families of backward kernels. Each function enqueues on `stream` of the current device and returns at once.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

#include "kernels/cuda/backward/backward_params.h"
#include "kernels/cuda/launch.h"

namespace modelopt::kernels::cuda {

/// The two halves of a family. Both read row_stats and write the gradients that are not null.
struct BackwardKernels {
  using Launch = void (*)(const BackwardParams&, const Workspace&, cudaStream_t);
  Launch queries;
  Launch keys;
  /// Whether select_queries() takes a problem; null: it never does.
  bool (*selects)(const AttentionParams&);
  /// queries(), which finds out what was attended and writes it to the mask. Bits of 16 keys (from a multiple of 16 on)
  /// of which a query sees none by position may be left as they are: keys() does not read them.
  Launch select_queries;
};

/// mma.sync, any GPU from sm_80 on: any head_dim, dtype and alignment.
extern const BackwardKernels kSm80Backward;

/// TMA and wgmma: 16-bit elements, head_dim a multiple of 8 up to 128, all bases and strides multiples of 16 bytes.
extern const BackwardKernels kSm90Backward;

/// Enqueues a forward that writes output, log-sum-exp and mask.
using ForwardRun = std::function<void(const AttentionParams&, const Workspace&, cudaStream_t)>;

/// All gradients of one problem. `params` has everything but row_stats, sum_k and sum_v; its mask may be of any
/// alignment. Where `decide_again`, there is no mask, and what was attended is found once more: by select_queries(), or
/// by `forward`, the very kernel that the problem's forward ran. Either way the scores have the same bits. It is done
/// for as many heads at a time as give kMaxMaskBytes of mask, but at least for those of one key head.
void run_backward(BackwardParams params, bool decide_again, const ForwardRun& forward, const BackwardKernels& kernels,
                  const Workspace& workspace, cudaStream_t stream);

}  // namespace modelopt::kernels::cuda
