// Statistics of the sm80 kernels: how many pairs of a query block and a key block hold a visible pair.
#include <cstdint>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/sm80/launch_forward.h"

namespace modelopt::kernels::cuda::sm80 {
namespace {

constexpr int kThreads = 256;

/// One block per sequence and head.
__global__ void count_blocks(const std::uint8_t* visible, std::int64_t pairs_per_head, std::int64_t* stats) {
  const std::uint8_t* own = visible + blockIdx.x * pairs_per_head;
  unsigned long long count = 0;
  for (std::int64_t i = threadIdx.x; i < pairs_per_head; i += kThreads) count += own[i];
  for (int step = 16; step > 0; step /= 2) count += __shfl_xor_sync(0xFFFFFFFFu, count, step);
  if (threadIdx.x % 32 == 0) atomicAdd(reinterpret_cast<unsigned long long*>(stats) + 4 * blockIdx.x, count);
}

}  // namespace

void count_visible_blocks(const ForwardParams& params, cudaStream_t stream) {
  const AttentionParams& p = params.attention;
  const auto heads = static_cast<unsigned>(p.batch) * static_cast<unsigned>(p.heads);
  const auto pairs_per_head = static_cast<std::int64_t>(params.query_blocks) * params.key_blocks;
  count_blocks<<<heads, kThreads, 0, stream>>>(params.block_visible, pairs_per_head, p.stats);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching count_blocks for ", heads, " heads");
}

}  // namespace modelopt::kernels::cuda::sm80
