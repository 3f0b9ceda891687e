// Before the attention kernel: checks the lengths, lists the tiles longest first, moves the tensor maps to the
// sequences, and fills the rows that no sequence owns. One kernel for all of it: a launch costs what a tile of keys
// does.
#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/fill_unowned_rows.cuh"
#include "kernels/cuda/sm90/hopper.h"
#include "kernels/cuda/sm90/schedule.h"

namespace modelopt::kernels::cuda::sm90 {
namespace {

constexpr int kThreads = 1024;

__device__ int floor_div(int a, int b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

__device__ SequenceRows rows_of(const AttentionParams& p, int b) {
  const SequenceRange s = sequence_range(p, b);
  const int offset = s.k_len - s.q_len;
  return {.q_base = s.q_start - offset,
          .first = p.is_causal ? max(offset, 0) : offset,
          .k_len = s.q_len == 0 ? 0 : s.k_len,
          .dense_keys = s.sparse_nm ? p.num_sink_tokens : 1 << 30};
}

__device__ int last_block(const SequenceRows& rows) { return floor_div(rows.k_len - 1, kBlockRows); }
__device__ int count_tiles(const SequenceRows& rows, int warpgroups) {
  if (rows.k_len == 0) return 0;
  return (last_block(rows) - floor_div(rows.first, kBlockRows) + warpgroups) / warpgroups;
}

/// Exclusive prefix sum over the block; returns the total in `total`.
__device__ int prefix_sum(int value, int* scratch, int& total) {
  scratch[threadIdx.x] = value;
  __syncthreads();
  for (int step = 1; step < kThreads; step *= 2) {
    const int other = threadIdx.x >= step ? scratch[threadIdx.x - step] : 0;
    __syncthreads();
    scratch[threadIdx.x] += other;
    __syncthreads();
  }
  total = scratch[kThreads - 1];
  const int result = scratch[threadIdx.x] - value;
  __syncthreads();
  return result;
}

/// Longer sequences first (the lower index among equals), so that the last tiles handed out are short. Larger batches
/// than the block has threads keep their order: their tiles are many.
__device__ int place_of(const AttentionParams& p, int b, int* lengths) {
  if (p.batch > kThreads) return b;
  lengths[threadIdx.x] = b < p.batch ? rows_of(p, b).k_len : -1;
  __syncthreads();
  int place = 0;
  for (int other = 0; other < p.batch; ++other) {
    place += lengths[other] > lengths[threadIdx.x] || (lengths[other] == lengths[threadIdx.x] && other < b);
  }
  __syncthreads();
  return b < p.batch ? place : b;
}

/// One block.
__device__ void list_tiles(const AttentionParams& p, const Schedule& schedule, int warpgroups) {
  __shared__ int scratch[kThreads];
  __shared__ int sequence_at[kThreads];
  __shared__ int first_tile[kThreads];
  int listed = 0;
  for (int base = 0; base < p.batch; base += kThreads) {
    const int own = base + static_cast<int>(threadIdx.x);
    const int place = place_of(p, own, scratch);
    sequence_at[place - base] = own;
    __syncthreads();
    const int b = sequence_at[threadIdx.x];
    SequenceRows rows{};
    if (b < p.batch) {
      rows = rows_of(p, b);
      schedule.rows[b] = rows;
    }
    int total = 0;
    first_tile[threadIdx.x] = listed + prefix_sum(b < p.batch ? count_tiles(rows, warpgroups) : 0, scratch, total);
    __syncthreads();
    const int in_batch = min(kThreads, p.batch - base);
    for (int i = static_cast<int>(threadIdx.x) / 32; i < in_batch; i += kThreads / 32) {
      const int sequence = sequence_at[i];
      const SequenceRows r = rows_of(p, sequence);
      const int tiles = count_tiles(r, warpgroups);
      for (int t = static_cast<int>(threadIdx.x) % 32; t < tiles; t += 32) {
        const int block = last_block(r) - t * warpgroups - (warpgroups - 1);
        if (first_tile[i] + t < schedule.max_tiles) schedule.tiles[first_tile[i] + t] = {sequence, block * kBlockRows};
      }
    }
    listed += total;
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    *schedule.counters = {.tiles = static_cast<unsigned>(min(listed, schedule.max_tiles))};
  }
}

/// One thread per map. An empty sequence gets extents of 1: its map is never used.
__device__ void move_map(const AttentionParams& p, const Schedule& schedule, const MapTemplates& templates, int index) {
  const int kind = index % kMapKinds;
  const int head = index / kMapKinds % p.kv_heads;
  const int b = index / kMapKinds / p.kv_heads;
  const SequenceRange s = sequence_range(p, b);
  CUtensorMap* map = schedule.maps + index;
  const uint4* from = reinterpret_cast<const uint4*>(&templates.maps[kind]);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(CUtensorMap) / sizeof(uint4)); ++i) {
    reinterpret_cast<uint4*>(map)[i] = from[i];
  }
  const char* base = static_cast<const char*>(templates.base[kind]) + s.k_start * templates.bytes_per_row[kind] +
                     head * templates.bytes_per_head[kind];
  const int extent = max(1, s.k_len / templates.block_keys[kind]);
  asm volatile("tensormap.replace.tile.global_address.global.b1024.b64 [%0], %1;" ::"l"(map), "l"(base) : "memory");
  if (templates.block_keys[kind] == 1) {
    asm volatile("tensormap.replace.tile.global_dim.global.b1024.b32 [%0], 1, %1;" ::"l"(map), "r"(extent) : "memory");
  } else {
    asm volatile("tensormap.replace.tile.global_dim.global.b1024.b32 [%0], 4, %1;" ::"l"(map), "r"(extent) : "memory");
  }
  asm volatile("fence.proxy.tensormap::generic.release.gpu;" ::: "memory");
}

int blocks_for(std::int64_t threads) { return static_cast<int>((threads + kThreads - 1) / kThreads); }

/// Block 0 lists the tiles, the next map_blocks move the maps, the rest fill rows.
__global__ void __launch_bounds__(kThreads)
    prepare_kernel(AttentionParams params, Schedule schedule, const __grid_constant__ MapTemplates templates,
                   int warpgroups, int map_blocks) {
  start_kernel_behind();
  const int block = static_cast<int>(blockIdx.x);
  if (block == 0) {
    list_tiles(params, schedule, warpgroups);
  } else if (block <= map_blocks) {
    const long long index = (block - 1ll) * kThreads + threadIdx.x;
    if (index < 1ll * params.batch * params.kv_heads * kMapKinds) {
      move_map(params, schedule, templates, static_cast<int>(index));
    }
  } else {
    fill_block_of_rows<kThreads>(params, block - 1 - map_blocks);
  }
}

}  // namespace

void prepare(const AttentionParams& params, const Schedule& schedule, const MapTemplates& templates, int warpgroups,
             cudaStream_t stream) {
  const int map_blocks = blocks_for(std::int64_t{params.batch} * params.kv_heads * kMapKinds);
  const int blocks = 1 + map_blocks + blocks_for(params.total_q);
  prepare_kernel<<<blocks, kThreads, 0, stream>>>(params, schedule, templates, warpgroups, map_blocks);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching the preparation of ", params.batch, " sequences");
}

}  // namespace modelopt::kernels::cuda::sm90
