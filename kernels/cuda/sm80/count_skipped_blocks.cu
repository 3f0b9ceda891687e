// attention_calibrate: what many thresholds would skip, in one pass over the keys.
//
// The vote kernels go through all keys that a row sees, whatever would be skipped. For a calibration they leave for
// each pair of blocks the largest difference that its rows compare with ln(lambda) (vote_marks.cuh), and the kernel
// here compares it with all of them: a block is skipped iff its largest difference votes so.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ordered_bits.h"
#include "kernels/cuda/sm80/launch_forward.h"
#include "kernels/cuda/visible_blocks.h"

namespace modelopt::kernels::cuda {
namespace {

constexpr int kThreads = 256;

/// The thresholds of one launch. They travel as an argument: no copy that a CUDA graph would read again later.
struct Trials {
  static constexpr int kMost = 64;
  float log_lambda[kMost];
};

/// Block (i, t) counts the blocks of sequence and head i for trial t; counts [heads of the batch, trials, 2] begins at
/// the launch's first trial.
__global__ void __launch_bounds__(kThreads)
    count_trials(const VisibleBlocks blocks, const __grid_constant__ Trials trials, std::int64_t* counts,
                 std::int64_t all_trials) {
  const std::int64_t per_head = std::int64_t{blocks.query_blocks} * blocks.key_blocks;
  const std::uint32_t* differences = blocks.differences + blockIdx.x * per_head;
  const float log_lambda = trials.log_lambda[blockIdx.y];
  unsigned long long visible = 0, skipped = 0;
  for (std::int64_t i = threadIdx.x; i < per_head; i += kThreads) {
    const std::uint32_t largest = differences[i];
    visible += largest != 0;
    skipped += largest != 0 && votes_skip(from_ordered_bits(largest), log_lambda);
  }
  __shared__ unsigned long long sums[2];
  if (threadIdx.x < 2) sums[threadIdx.x] = 0;
  __syncthreads();
  atomicAdd(&sums[0], visible);
  atomicAdd(&sums[1], skipped);
  __syncthreads();
  if (threadIdx.x < 2) {
    counts[(blockIdx.x * all_trials + blockIdx.y) * 2 + threadIdx.x] = static_cast<std::int64_t>(sums[threadIdx.x]);
  }
}

}  // namespace

void count_skipped_blocks(const AttentionParams& p, const std::vector<float>& log_lambdas, std::int64_t* counts,
                          const Workspace& workspace, cudaStream_t stream) {
  if (p.batch == 0) return;
  sm80::ForwardParams params = sm80::forward_params_of(p);
  if (p.max_q_len > 0 && p.max_k_len > 0) {
    params.visible_blocks = allocate_block_differences(p, workspace, stream);
    sm80::run_votes(params, stream);
  }  // else there are no blocks to count
  const auto heads = static_cast<unsigned>(p.batch) * static_cast<unsigned>(p.heads);
  const auto all = static_cast<std::int64_t>(log_lambdas.size());
  for (std::int64_t first = 0; first < all; first += Trials::kMost) {
    const auto count = std::min<std::int64_t>(Trials::kMost, all - first);
    Trials trials{};
    std::copy_n(log_lambdas.begin() + first, count, trials.log_lambda);
    const dim3 grid(heads, static_cast<unsigned>(count));
    count_trials<<<grid, kThreads, 0, stream>>>(params.visible_blocks, trials, counts + first * 2, all);
    MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching count_trials for ", heads, " heads and ", count, " trials");
  }
}

}  // namespace modelopt::kernels::cuda
