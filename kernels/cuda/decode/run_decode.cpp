#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "kernels/cuda/decode/launch_decode.h"
#include "kernels/cuda/launch.h"

namespace modelopt::kernels::cuda {
namespace {

using decode::DecodeParams;

constexpr std::int64_t kAlignment = 16;  ///< bytes of one copy
constexpr std::int64_t kElementBytes = 2;

bool aligned(const void* base, const Strides& strides) {
  return reinterpret_cast<std::uintptr_t>(base) % kAlignment == 0 && strides.row * kElementBytes % kAlignment == 0 &&
         strides.head * kElementBytes % kAlignment == 0;
}

constexpr std::int64_t kChunk = std::int64_t{1} << decode::kChunkKeysLog2;

std::int64_t most_chunks(const AttentionParams& p) { return p.batch * ((p.max_k_len + kChunk - 1) / kChunk); }
std::int64_t most_chunks_of_disjoint_keys(const AttentionParams& p) { return p.total_kv / kChunk + p.batch; }

/// Offsets of arrays in one allocation, each at a multiple of 256 bytes.
class Layout {
 public:
  std::size_t add(std::size_t bytes) {
    const std::size_t offset = size_;
    size_ += (bytes + 255) / 256 * 256;
    return offset;
  }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  std::size_t size_ = 0;
};

template <typename Element>
void launch(const DecodeParams& params, cudaStream_t stream) {
  if (params.attention.head_dim <= 64) {
    decode::launch_split_keys<Element, 64>(params, stream);
  } else if (params.attention.head_dim <= 128) {
    decode::launch_split_keys<Element, 128>(params, stream);
  } else {
    decode::launch_split_keys<Element, 256>(params, stream);
  }
  decode::launch_merge_chunks(params, stream);
}

}  // namespace

bool decode_fits(const AttentionParams& params) {
  const std::int64_t group = params.heads / params.kv_heads;
  constexpr std::int64_t kMaxBlocks = std::int64_t{1}
                                      << 30;  // half of what a grid takes: blocks that fill rows come on top
  return params.sparsity_n == 0 && !params.skips() && params.dtype != ElementType::kFloat32 && params.head_dim % 8 == 0 &&
         params.head_dim <= 256 && params.max_q_len * group <= decode::kMaxRows &&
         std::int64_t{params.batch} * params.max_q_len * params.heads <= kMaxBlocks &&
         aligned(params.q, params.q_strides) && aligned(params.k, params.k_strides) &&
         aligned(params.v, params.v_strides);
}

void run_decode(const AttentionParams& params, const Workspace& workspace, cudaStream_t stream) {
  const int group = params.heads / params.kv_heads;
  const std::int64_t capacity = std::min(most_chunks(params), most_chunks_of_disjoint_keys(params));
  DecodeParams decode{.attention = params,
                      .group = group,
                      .rows = params.max_q_len * group,
                      .capacity = static_cast<int>(capacity),
                      .all_fit = capacity == most_chunks(params)};
  const std::size_t partial_rows = std::size_t(decode.capacity) * params.kv_heads * decode.rows;
  Layout layout;
  const std::size_t offsets = layout.add((std::size_t(params.batch) + 1) * sizeof(int));
  const std::size_t softmax = layout.add(partial_rows * sizeof(float2));
  const std::size_t output = layout.add(partial_rows * params.head_dim * sizeof(float));
  auto* base = static_cast<std::byte*>(workspace(layout.size()));
  decode.chunk_offsets = reinterpret_cast<int*>(base + offsets);
  decode.partial_softmax = reinterpret_cast<float2*>(base + softmax);
  decode.partial_output = reinterpret_cast<float*>(base + output);
  if (params.dtype == ElementType::kFloat16) {
    launch<__half>(decode, stream);
  } else {
    launch<__nv_bfloat16>(decode, stream);
  }
}

}  // namespace modelopt::kernels::cuda
