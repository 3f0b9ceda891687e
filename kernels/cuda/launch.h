// The kernel families behind the CUDA backends. Each enqueues on `stream` of the current device and returns at once.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kernels/cuda/attention_params.h"

namespace modelopt::kernels::cuda {

/// Device memory for one launch, released in stream order (PyTorch's caching allocator).
using Workspace = std::function<void*(std::size_t bytes)>;

/// Writes rows of no sequence and rows that see no key by position: output 0, log-sum-exp -inf, mask 0; rows of invalid
/// sequences: NaN. Batch 0 and no keys included. run_sm80 leaves these rows to it; run_sm90 and run_decode write them.
void fill_unowned_rows(const AttentionParams& params, cudaStream_t stream);

/// sm80: mma.sync and cp.async, any GPU from sm_80 on.
void run_sm80(const AttentionParams& params, const Workspace& workspace, cudaStream_t stream);

/// What skip-softmax would skip of a dense problem: counts int64 [batch, heads, log_lambdas.size(), 2] = blocks
/// visible, blocks skipped with that ln(lambda). Rows of log-sum-exp are overwritten with what is left of the votes. Of
/// invalid sequences nothing is counted. Takes 4 bytes of workspace for each pair of blocks that the bounds of the
/// lengths allow.
void count_skipped_blocks(const AttentionParams& params, const std::vector<float>& log_lambdas, std::int64_t* counts,
                          const Workspace& workspace, cudaStream_t stream);

/// sm90: TMA, wgmma and wgmma.sp, warp-specialised.
void run_sm90(const AttentionParams& params, const Workspace& workspace, cudaStream_t stream);

/// Decode with few query rows per key head: keys are split over the GPU. A chunk of a prefill, however short, is not
/// decode: the kernel of the whole gives it the bits of the whole. Writes the mask and the statistics with skip-softmax
/// only.
[[nodiscard]] bool decode_fits(const AttentionParams& params);
void run_decode(const AttentionParams& params, const Workspace& workspace, cudaStream_t stream);

}  // namespace modelopt::kernels::cuda
