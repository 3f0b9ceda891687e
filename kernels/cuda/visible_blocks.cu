#include "kernels/cuda/visible_blocks.h"

#include "kernels/cuda/cuda_error.h"

namespace modelopt::kernels::cuda {
namespace {

constexpr int kThreads = 256;

constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

/// One CUDA block per sequence and head.
__global__ void count_marks(const __grid_constant__ AttentionParams p, const VisibleBlocks blocks) {
  const std::int64_t per_head = std::int64_t{blocks.query_blocks} * blocks.key_blocks;
  const std::int64_t first = blockIdx.x * per_head;
  const bool skips = skips_blocks(p, static_cast<int>(blockIdx.x) / p.heads);
  unsigned long long visible = 0, skipped = 0;
  for (std::int64_t i = threadIdx.x; i < per_head; i += kThreads) {
    const bool marked = blocks.marks[first + i] != 0;
    visible += marked;
    skipped += marked && skips && blocks.attended[first + i] == 0;
  }
  for (int step = 16; step > 0; step /= 2) {
    visible += __shfl_xor_sync(0xFFFFFFFFu, visible, step);
    skipped += __shfl_xor_sync(0xFFFFFFFFu, skipped, step);
  }
  if (threadIdx.x % 32 != 0) return;
  auto* stats = reinterpret_cast<unsigned long long*>(p.stats) + 4 * blockIdx.x;
  atomicAdd(stats, visible);
  if (skipped > 0) atomicAdd(stats + 1, skipped);
}

/// Zeroed elements for all pairs of blocks.
template <typename Element>
Element* allocate_elements(const AttentionParams& p, const VisibleBlocks& blocks, const Workspace& workspace,
                           cudaStream_t stream) {
  const auto pairs = static_cast<std::size_t>(p.batch) * p.heads * blocks.query_blocks * blocks.key_blocks;
  void* const memory = workspace(pairs * sizeof(Element));
  MODELOPT_CUDA_CHECK(cudaMemsetAsync(memory, 0, pairs * sizeof(Element), stream), "zeroing ", pairs, " block marks");
  return static_cast<Element*>(memory);
}

VisibleBlocks count_blocks(const AttentionParams& p) {
  VisibleBlocks blocks;
  blocks.query_blocks = ceil_div(p.max_q_len, p.skip_br) + 1;  // a sequence's rows may begin and end inside a block
  blocks.key_blocks = ceil_div(p.max_k_len, p.skip_bc);
  return blocks;
}

}  // namespace

VisibleBlocks allocate_visible_blocks(const AttentionParams& p, const Workspace& workspace, cudaStream_t stream) {
  VisibleBlocks blocks = count_blocks(p);
  if (p.stats != nullptr) blocks.marks = allocate_elements<std::uint8_t>(p, blocks, workspace, stream);
  if (p.skips()) blocks.attended = allocate_elements<std::uint8_t>(p, blocks, workspace, stream);
  return blocks;
}

VisibleBlocks allocate_block_differences(const AttentionParams& p, const Workspace& workspace, cudaStream_t stream) {
  VisibleBlocks blocks = count_blocks(p);
  blocks.differences = allocate_elements<std::uint32_t>(p, blocks, workspace, stream);
  return blocks;
}

void count_visible_blocks(const AttentionParams& p, const VisibleBlocks& blocks, cudaStream_t stream) {
  const auto heads = static_cast<unsigned>(p.batch) * static_cast<unsigned>(p.heads);
  count_marks<<<heads, kThreads, 0, stream>>>(p, blocks);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching count_marks for ", heads, " heads");
}

}  // namespace modelopt::kernels::cuda
