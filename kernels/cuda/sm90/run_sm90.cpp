// Host side of the Hopper backend: picks the kernel, describes the tensors, and enqueues preparation, attention and
// rescue.
#include <cuda_runtime_api.h>

#include <algorithm>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sm90/launch_flash_forward.h"
#include "kernels/cuda/sm90/tensor_map.h"
#include "kernels/cuda/sm90/unordered_metadata.h"

namespace modelopt::kernels::cuda {
namespace {

using namespace sm90;

constexpr std::int64_t kSectionBytes = std::int64_t{28} << 20;  // of keys and values; the L2 cache of an H100 has 50 MB

int multiprocessors() {
  int device = 0;
  int count = 0;
  MODELOPT_CUDA_CHECK(cudaGetDevice(&device), "current device");
  MODELOPT_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "multiprocessors of GPU ",
                      device);
  return count;
}

/// Query heads that are worked on together: whole groups of a key head, as many as share the L2 cache.
int section_heads(const AttentionParams& p) {
  const int group = p.heads / p.kv_heads;
  const std::int64_t bytes_per_key_head = std::int64_t{4} * p.max_k_len * p.head_dim;
  int key_heads = p.kv_heads;
  while (key_heads % 2 == 0 && key_heads * bytes_per_key_head > kSectionBytes) key_heads /= 2;
  return key_heads * group;
}

/// Upper bound of the CTA tiles of one head, from what the host knows.
int tile_bound(const AttentionParams& p, int warpgroups) {
  const std::int64_t rows = std::int64_t{kBlockRows} * warpgroups;
  const std::int64_t by_length = p.batch * (p.max_q_len / rows + 2);
  const std::int64_t by_total = p.total_q / rows + std::int64_t{2} * p.batch;
  return static_cast<int>(std::min(by_length, by_total));
}

template <typename T>
T* allocate(const Workspace& workspace, std::int64_t count) {
  return static_cast<T*>(workspace(static_cast<std::size_t>(count) * sizeof(T)));
}

HeadTensor head_tensor(const AttentionParams& p, const void* base, int rows, int heads, Strides strides) {
  return {base, p.dtype, rows, heads, p.head_dim, strides};
}

template <typename Traits>
MapTemplates map_templates(const AttentionParams& p) {
  const HeadTensor k = head_tensor(p, p.k, p.total_kv, p.kv_heads, p.k_strides);
  const HeadTensor v = head_tensor(p, p.v, p.total_kv, p.kv_heads, p.v_strides);
  MapTemplates templates{};
  const auto set = [&](MapKind kind, const HeadTensor& tensor, bool permuted, int box_rows) {
    templates.maps[kind] = permuted ? permuted_row_map(tensor, box_rows, Traits::kBlock) : row_map(tensor, box_rows);
    templates.bytes_per_row[kind] = tensor.strides.row * 2;
    templates.bytes_per_head[kind] = tensor.strides.head * 2;
    templates.base[kind] = tensor.base;
    templates.block_keys[kind] = permuted ? Traits::kBlock : 1;
  };
  set(kKeys, k, Traits::kPermutedKeys, Traits::kKeys);
  set(kKeyPairs, k, false, 2);
  set(kValues, v, Traits::kPermutedValues, Traits::kKeys);
  set(kValuePairs, v, false, 2);
  return templates;
}

/// Tiles that no row of a warpgroup sees are not visited.
void clear_mask(const AttentionParams& p, cudaStream_t stream) {
  const std::size_t bytes = static_cast<std::size_t>(p.mask_bytes) * p.heads * p.total_q;
  MODELOPT_CUDA_CHECK(cudaMemsetAsync(p.mask, 0, bytes, stream), "clearing the mask of ", bytes, " bytes");
}

/// Preparation, attention and, with the biased reference, the redoing of rows that it could not hold.
template <typename Element, int kHeadDim, Pattern kPattern, Reference kReference>
void run_kernels(const AttentionParams& p, const Workspace& workspace, cudaStream_t stream) {
  using Traits = KernelTraits<Element, kHeadDim, kPattern, kReference>;
  Schedule schedule;
  schedule.max_tiles = tile_bound(p, Traits::kWarpgroups);
  schedule.maps = allocate<CUtensorMap>(workspace, std::int64_t{p.batch} * p.kv_heads * kMapKinds);
  schedule.counters = allocate<Counters>(workspace, 1);
  schedule.rows = allocate<SequenceRows>(workspace, p.batch);
  schedule.tiles = allocate<Tile>(workspace, schedule.max_tiles);
  schedule.rescue_list = allocate<unsigned>(workspace, std::int64_t{schedule.max_tiles} * p.heads);
  const bool records = p.mask != nullptr || p.stats != nullptr;
  if (p.mask != nullptr) clear_mask(p, stream);
  prepare(p, schedule, map_templates<Traits>(p), Traits::kWarpgroups, stream);

  const CUtensorMap q_map = head_map(head_tensor(p, p.q, p.total_q, p.heads, p.q_strides), kBlockRows);
  constexpr float kLog2E = 1.4426950408889634f;
  KernelArguments args{.params = p,
                       .schedule = schedule,
                       .scale_log2 = p.scale * kLog2E,
                       .one = 1.0f,
                       .section_heads = section_heads(p),
                       .visible_blocks = {},
                       .rescue = false};
  if (p.stats != nullptr) args.visible_blocks = allocate_visible_blocks(p, workspace, stream);
  const auto ctas =
      static_cast<int>(std::min<std::int64_t>(multiprocessors(), std::int64_t{schedule.max_tiles} * p.heads));
  if (records) {
    launch_flash_forward<KernelTraits<Element, kHeadDim, kPattern, kReference, true>>(q_map, args, ctas, stream);
  } else {
    launch_flash_forward<Traits>(q_map, args, ctas, stream);
  }
  if constexpr (kReference == Reference::kBiased) {
    args.rescue = true;
    constexpr Pattern kRescue = kPattern == Pattern::kSparse2of4Unordered ? Pattern::kSparse2of4 : kPattern;
    launch_flash_forward<KernelTraits<Element, kHeadDim, kRescue, Reference::kTrueMaxima>>(q_map, args, ctas, stream);
  }
  if (p.stats != nullptr) count_visible_blocks(p, args.visible_blocks, stream);
}

template <typename Element, int kHeadDim>
void run_pattern(const AttentionParams& p, const Workspace& workspace, cudaStream_t stream) {
  // The bias needs bf16's range of exponents.
  constexpr Reference kReference = std::is_same_v<Element, __nv_bfloat16> ? Reference::kBiased : Reference::kTrueMaxima;
  if (p.sparsity_n == 0) {
    run_kernels<Element, kHeadDim, Pattern::kDense, kReference>(p, workspace, stream);
  } else if (p.sparsity_m == 4 && p.sparsity_n == 2) {
    if constexpr (kReference == Reference::kBiased) {
      if (unordered_metadata_works()) {
        run_kernels<Element, kHeadDim, Pattern::kSparse2of4Unordered, kReference>(p, workspace, stream);
        return;
      }
    }
    run_kernels<Element, kHeadDim, Pattern::kSparse2of4, kReference>(p, workspace, stream);
  } else if (p.sparsity_m == 4 && p.sparsity_n == 1) {
    run_kernels<Element, kHeadDim, Pattern::kSparse1of4, kReference>(p, workspace, stream);
  } else {
    run_kernels<Element, kHeadDim, Pattern::kMasked, kReference>(p, workspace, stream);
  }
}

template <typename Element>
void run_head_dim(const AttentionParams& p, const Workspace& workspace, cudaStream_t stream) {
  if (p.head_dim <= 64) {
    run_pattern<Element, 64>(p, workspace, stream);
  } else if (p.head_dim <= 96) {
    run_pattern<Element, 96>(p, workspace, stream);
  } else if (p.head_dim <= 128) {
    run_pattern<Element, 128>(p, workspace, stream);
  } else {
    run_pattern<Element, 256>(p, workspace, stream);
  }
}

}  // namespace

void run_sm90(const AttentionParams& params, const Workspace& workspace, cudaStream_t stream) {
  if (params.dtype == ElementType::kFloat16) {
    run_head_dim<__half>(params, workspace, stream);
  } else {
    run_head_dim<__nv_bfloat16>(params, workspace, stream);
  }
}

}  // namespace modelopt::kernels::cuda
