// What the host side of every Hopper kernel needs: device facts, bounds, memory of one launch, tensor maps.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sm90/schedule.h"
#include "kernels/cuda/sm90/tensor_map.h"

namespace modelopt::kernels::cuda::sm90 {

constexpr std::int64_t kSectionBytes = std::int64_t{28} << 20;  // of keys and values; the L2 cache of an H100 has 50 MB
constexpr float kLog2E = 1.4426950408889634f;

inline int multiprocessors() {
  int device = 0;
  int count = 0;
  MODELOPT_CUDA_CHECK(cudaGetDevice(&device), "current device");
  MODELOPT_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "multiprocessors of GPU ",
                      device);
  return count;
}

/// Query heads that are worked on together: whole groups of a key head, as many as share the L2 cache.
inline int section_heads(const AttentionParams& p) {
  const int group = p.heads / p.kv_heads;
  const std::int64_t bytes_per_key_head = std::int64_t{4} * p.max_k_len * p.head_dim;
  int key_heads = p.kv_heads;
  while (key_heads % 2 == 0 && key_heads * bytes_per_key_head > kSectionBytes) key_heads /= 2;
  return key_heads * group;
}

/// Upper bound of the CTA tiles of one head, from what the host knows.
inline int tile_bound(const AttentionParams& p, int rows) {
  const std::int64_t by_length = p.batch * (std::int64_t{p.max_q_len / rows} + 2);
  const std::int64_t by_total = p.total_q / rows + std::int64_t{2} * p.batch;
  return static_cast<int>(std::min(by_length, by_total));
}

template <typename T>
T* allocate(const Workspace& workspace, std::int64_t count) {
  return static_cast<T*>(workspace(static_cast<std::size_t>(count) * sizeof(T)));
}

/// Memory for prepare(), for CTAs of `rows` query rows; without a rescue list.
inline Schedule allocate_schedule(const AttentionParams& p, int rows, const Workspace& workspace) {
  Schedule schedule;
  schedule.max_tiles = tile_bound(p, rows);
  schedule.maps = allocate<CUtensorMap>(workspace, std::int64_t{p.batch} * p.kv_heads * kMapKinds);
  schedule.counters = allocate<Counters>(workspace, 1);
  schedule.rows = allocate<SequenceRows>(workspace, p.batch);
  schedule.tiles = allocate<Tile>(workspace, schedule.max_tiles);
  return schedule;
}

/// CTAs of a persistent kernel: one per multiprocessor, if there are as many tiles.
inline int persistent_ctas(const AttentionParams& p, const Schedule& schedule) {
  return static_cast<int>(std::min<std::int64_t>(multiprocessors(), std::int64_t{schedule.max_tiles} * p.heads));
}

inline HeadTensor head_tensor(const AttentionParams& p, const void* base, int rows, int heads, Strides strides) {
  return {base, p.dtype, rows, heads, p.head_dim, strides};
}

/// Boxes of `box_rows` query rows.
inline CUtensorMap query_map(const AttentionParams& p, int box_rows) {
  return head_map(head_tensor(p, p.q, p.total_q, p.heads, p.q_strides), box_rows);
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
inline void clear_mask(const AttentionParams& p, cudaStream_t stream) {
  const std::size_t bytes = static_cast<std::size_t>(p.mask_bytes) * p.heads * p.total_q;
  MODELOPT_CUDA_CHECK(cudaMemsetAsync(p.mask, 0, bytes, stream), "clearing the mask of ", bytes, " bytes");
}

}  // namespace modelopt::kernels::cuda::sm90
