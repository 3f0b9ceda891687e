#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "kernels/cuda/cuda_error.h"
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

template <typename Element, int kHeadDim>
void launch_keys(const DecodeParams& params, cudaStream_t stream) {
  if (params.attention.skips()) {
    decode::launch_skip_keys<Element, kHeadDim>(params, stream);
  } else {
    decode::launch_split_keys<Element, kHeadDim>(params, stream);
  }
}

template <typename Element>
void launch(const DecodeParams& params, cudaStream_t stream) {
  if (params.attention.head_dim <= 64) {
    launch_keys<Element, 64>(params, stream);
  } else if (params.attention.head_dim <= 128) {
    launch_keys<Element, 128>(params, stream);
  } else {
    launch_keys<Element, 256>(params, stream);
  }
  decode::launch_merge_chunks(params, stream);
}

/// Rows of a key head, in blocks: with several, each as large as the last could be.
struct RowBlocks {
  int count;
  int rows;
};

RowBlocks row_blocks(const AttentionParams& p) {
  const int rows = p.max_q_len * (p.heads / p.kv_heads);
  return {(rows + decode::kRowBlock - 1) / decode::kRowBlock, std::min(rows, decode::kRowBlock)};
}

std::size_t partial_rows(const AttentionParams& p, std::int64_t chunks) {
  const RowBlocks blocks = row_blocks(p);
  return static_cast<std::size_t>(chunks) * p.kv_heads * blocks.count * blocks.rows;
}

/// skip_keys needs room for all chunks, whatever the lengths are, and scores blocks that reach out of a chunk again.
bool skipping_fits(const AttentionParams& p) {
  constexpr std::size_t kMostBytes = std::size_t{1} << 30;
  return p.skip_bc <= kMostDecodeBlockKeys &&
         partial_rows(p, most_chunks(p)) * p.head_dim * sizeof(float) <= kMostBytes;
}

}  // namespace

bool decode_fits(const AttentionParams& params) {
  const std::int64_t rows = std::int64_t{params.max_q_len} * (params.heads / params.kv_heads);
  constexpr std::int64_t kMaxBlocks = std::int64_t{1}
                                      << 30;  // half of what a grid takes: blocks that fill rows come on top
  return params.decode && params.dtype != ElementType::kFloat32 && params.head_dim % 8 == 0 && params.head_dim <= 256 &&
         params.max_q_len <= kMostDecodeLength && rows <= kMostDecodeRows &&
         (!params.skips() || skipping_fits(params)) &&
         std::int64_t{params.batch} * params.max_q_len * params.heads <= kMaxBlocks &&
         aligned(params.q, params.q_strides) && aligned(params.k, params.k_strides) &&
         aligned(params.v, params.v_strides);
}

void run_decode(const AttentionParams& params, const Workspace& workspace, cudaStream_t stream) {
  const RowBlocks blocks = row_blocks(params);
  const bool skips = params.skips();
  const std::int64_t most = most_chunks(params);
  const std::int64_t capacity = skips ? most : std::min(most, most_chunks_of_disjoint_keys(params));
  DecodeParams decode{.attention = params,
                      .group = params.heads / params.kv_heads,
                      .row_blocks = blocks.count,
                      .rows = blocks.rows,
                      .parts = params.kv_heads * blocks.count,
                      .capacity = static_cast<int>(capacity),
                      .all_fit = capacity == most};
  const std::size_t rows = partial_rows(params, capacity);
  const std::size_t maxima_bytes = (1 + 2 * rows) * sizeof(float);
  Layout layout;
  const std::size_t offsets = layout.add((std::size_t(params.batch) + 1) * sizeof(int));
  const std::size_t softmax = layout.add(rows * sizeof(float2));
  const std::size_t output = layout.add(rows * params.head_dim * sizeof(float));
  const std::size_t maxima = layout.add(skips ? maxima_bytes : 0);
  auto* base = static_cast<std::byte*>(workspace(layout.size()));
  decode.chunk_offsets = reinterpret_cast<int*>(base + offsets);
  decode.partial_softmax = reinterpret_cast<float2*>(base + softmax);
  decode.partial_output = reinterpret_cast<float*>(base + output);
  if (skips) {
    decode.last_work = reinterpret_cast<unsigned*>(base + maxima);
    decode.chunk_maxima = reinterpret_cast<float*>(decode.last_work + 1);
    decode.prefix_maxima = decode.chunk_maxima + rows;
    MODELOPT_CUDA_CHECK(cudaMemsetAsync(base + maxima, 0xFF, maxima_bytes, stream), "filling ", maxima_bytes,
                        " bytes of chunk maxima");
    if (params.mask != nullptr) {
      const std::size_t bytes = std::size_t(params.total_q) * params.heads * params.mask_bytes;
      MODELOPT_CUDA_CHECK(cudaMemsetAsync(params.mask, 0, bytes, stream), "zeroing ", bytes, " bytes of the mask");
    }
  }
  if (params.dtype == ElementType::kFloat16) {
    launch<__half>(decode, stream);
  } else {
    launch<__nv_bfloat16>(decode, stream);
  }
}

}  // namespace modelopt::kernels::cuda
