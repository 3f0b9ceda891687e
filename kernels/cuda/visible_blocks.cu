#include "kernels/cuda/visible_blocks.h"

#include "kernels/cuda/cuda_error.h"

namespace modelopt::kernels::cuda {
namespace {

constexpr int kThreads = 256;

constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

/// One CUDA block per sequence and head.
__global__ void count_marks(const std::uint8_t* marks, std::int64_t marks_per_head, std::int64_t* stats) {
  const std::uint8_t* own = marks + blockIdx.x * marks_per_head;
  unsigned long long count = 0;
  for (std::int64_t i = threadIdx.x; i < marks_per_head; i += kThreads) count += own[i];
  for (int step = 16; step > 0; step /= 2) count += __shfl_xor_sync(0xFFFFFFFFu, count, step);
  if (threadIdx.x % 32 == 0) atomicAdd(reinterpret_cast<unsigned long long*>(stats) + 4 * blockIdx.x, count);
}

}  // namespace

VisibleBlocks allocate_visible_blocks(const AttentionParams& p, const Workspace& workspace, cudaStream_t stream) {
  VisibleBlocks blocks;
  blocks.query_blocks = ceil_div(p.max_q_len, p.skip_br) + 1;  // a sequence's rows may begin and end inside a block
  blocks.key_blocks = ceil_div(p.max_k_len, p.skip_bc);
  const auto bytes = static_cast<std::size_t>(p.batch) * p.heads * blocks.query_blocks * blocks.key_blocks;
  blocks.marks = static_cast<std::uint8_t*>(workspace(bytes));
  MODELOPT_CUDA_CHECK(cudaMemsetAsync(blocks.marks, 0, bytes, stream), "zeroing ", bytes, " block marks");
  return blocks;
}

void count_visible_blocks(const AttentionParams& p, const VisibleBlocks& blocks, cudaStream_t stream) {
  const auto heads = static_cast<unsigned>(p.batch) * static_cast<unsigned>(p.heads);
  const std::int64_t per_head = std::int64_t{blocks.query_blocks} * blocks.key_blocks;
  count_marks<<<heads, kThreads, 0, stream>>>(blocks.marks, per_head, p.stats);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching count_marks for ", heads, " heads");
}

}  // namespace modelopt::kernels::cuda
