// Before the attention kernel: checks the lengths, lists the tiles longest first, moves the tensor maps to the
// sequences, and fills the rows that no sequence owns. One kernel for all of it: a launch costs what a tile of keys
// does.
#include <cub/block/block_scan.cuh>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/fill_unowned_rows.cuh"
#include "kernels/cuda/sm90/hopper.h"
#include "kernels/cuda/sm90/launch_overlapped.h"
#include "kernels/cuda/sm90/schedule.h"
#include "kernels/cuda/sm90/skip/prepare_skip.h"

namespace modelopt::kernels::cuda::sm90 {
namespace {

constexpr int kThreads = 1024;
constexpr int kMapsOfBlock = 32;  ///< one warp's: it has one fence, and a multiprocessor takes long to move many maps

/// The sequences that a launch works on: all, those with a lambda above 0, or those without.
enum class Sequences : int { kAll, kSkipping, kNotSkipping };

__device__ SequenceRows rows_of(const AttentionParams& p, int b, Sequences sequences) {
  const SequenceRange s = sequence_range(p, b);
  const bool listed = sequences == Sequences::kAll || skips_blocks(p, b) == (sequences == Sequences::kSkipping);
  const int offset = s.k_len - s.q_len;
  return {.q_base = s.q_start - offset,
          .first = p.is_causal ? max(offset, 0) : offset,
          .k_len = s.q_len == 0 || !listed ? 0 : s.k_len,
          .dense_keys = s.sparse_nm ? p.num_sink_tokens : 1 << 30};
}

/// How rows are cut into tiles: each has `warpgroups` blocks of them. Aligned tiles lie at multiples of their rows;
/// others end with the sequence's last block.
struct Cut {
  int warpgroups;
  bool aligned;

  __device__ int last_block(const SequenceRows& rows) const {
    const int last = floor_div(rows.k_len - 1, kBlockRows);
    return aligned ? floor_div(last, warpgroups) * warpgroups + warpgroups - 1 : last;
  }
  __device__ int count_tiles(const SequenceRows& rows) const {
    if (rows.k_len == 0) return 0;
    return (last_block(rows) - floor_div(rows.first, kBlockRows) + warpgroups) / warpgroups;
  }
};

/// Exclusive prefix sum over the block; the sum of all in `total`.
__device__ int prefix_sum(int value, int& total) {
  using Scan = cub::BlockScan<int, kThreads>;
  __shared__ typename Scan::TempStorage scratch;
  int before = 0;
  Scan(scratch).ExclusiveSum(value, before, total);
  __syncthreads();
  return before;
}

/// Longer sequences first (the lower index among equals), so that the last tiles handed out are short. Larger batches
/// than the block has threads keep their order: their tiles are many.
__device__ int place_of(const AttentionParams& p, int own_length, int (&lengths)[kThreads]) {
  const int own = static_cast<int>(threadIdx.x);
  if (p.batch == 1 || p.batch > kThreads) return own;
  lengths[own] = own_length;
  __syncthreads();
  int place = 0;
  for (int other = 0; other < p.batch; ++other) {
    place += lengths[other] > own_length || (lengths[other] == own_length && other < own);
  }
  return own < p.batch ? place : own;
}

/// One block.
__device__ void list_tiles(const AttentionParams& p, const Schedule& schedule, Cut cut, Sequences sequences,
                           float* log_lambda) {
  __shared__ int lengths[kThreads];
  // in the order of their places
  __shared__ int sequence_at[kThreads], first_tile[kThreads];
  __shared__ SequenceRows rows_at[kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  int listed = 0;
  for (int base = 0; base < p.batch; base += kThreads) {
    const int b = base + thread;
    const SequenceRows rows = b < p.batch ? rows_of(p, b, sequences) : SequenceRows{};
    if (b < p.batch) {
      schedule.rows[b] = rows;
      if (log_lambda != nullptr) log_lambda[b] = log_lambda_of(p, b);
    }
    const int place = place_of(p, b < p.batch ? rows.k_len : -1, lengths);
    sequence_at[place] = b;
    rows_at[place] = rows;
    __syncthreads();
    int total = 0;
    first_tile[thread] = listed + prefix_sum(cut.count_tiles(rows_at[thread]), total);
    __syncthreads();
    const int in_batch = min(kThreads, p.batch - base);
    for (int i = thread / 32; i < in_batch; i += kThreads / 32) {
      const SequenceRows r = rows_at[i];
      const int tiles = cut.count_tiles(r);
      for (int t = thread % 32; t < tiles; t += 32) {
        const int block = cut.last_block(r) - t * cut.warpgroups - (cut.warpgroups - 1);
        if (first_tile[i] + t < schedule.max_tiles) {
          schedule.tiles[first_tile[i] + t] = {sequence_at[i], block * kBlockRows};
        }
      }
    }
    listed += total;
    __syncthreads();
  }
  if (thread == 0) *schedule.counters = {.tiles = static_cast<unsigned>(min(listed, schedule.max_tiles))};
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

int blocks_for(std::int64_t count, int of_block) { return static_cast<int>((count + of_block - 1) / of_block); }

/// Block 0 lists the tiles, the next map_blocks move the maps, the rest fill rows.
__global__ void __launch_bounds__(kThreads)
    prepare_kernel(AttentionParams params, Schedule schedule, const __grid_constant__ MapTemplates templates, Cut cut,
                   Sequences sequences, float* log_lambda, int map_blocks) {
  start_kernel_behind();
  wait_for_kernel_before();  // it may write the lengths, or still use the memory that this launch gets
  const int block = static_cast<int>(blockIdx.x);
  if (block == 0) {
    list_tiles(params, schedule, cut, sequences, log_lambda);
  } else if (block <= map_blocks) {
    const int thread = static_cast<int>(threadIdx.x);
    const int index = (block - 1) * kMapsOfBlock + thread;
    if (thread < kMapsOfBlock && index < std::int64_t{params.batch} * params.kv_heads * kMapKinds) {
      move_map(params, schedule, templates, index);
    }
  } else {
    fill_block_of_rows<kThreads>(params, block - 1 - map_blocks);
  }
}

void launch(const AttentionParams& params, const Schedule& schedule, const MapTemplates& templates, Cut cut,
            Sequences sequences, float* log_lambda, cudaStream_t stream) {
  const int map_blocks = blocks_for(std::int64_t{params.batch} * params.kv_heads * kMapKinds, kMapsOfBlock);
  const int row_blocks = sequences == Sequences::kNotSkipping ? 0 : blocks_for(params.total_q, kThreads);
  const int blocks = 1 + map_blocks + row_blocks;
  MODELOPT_CUDA_CHECK(launch_overlapped(&prepare_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream,
                                        params, schedule, templates, cut, sequences, log_lambda, map_blocks),
                      "launching the preparation of ", params.batch, " sequences");
}

}  // namespace

void prepare(const AttentionParams& params, const Schedule& schedule, const MapTemplates& templates, int warpgroups,
             cudaStream_t stream) {
  launch(params, schedule, templates, {.warpgroups = warpgroups, .aligned = false}, Sequences::kAll, nullptr, stream);
}

void prepare_skip(const AttentionParams& params, const Schedule& schedule, const MapTemplates& templates,
                  float* log_lambda, cudaStream_t stream) {
  launch(params, schedule, templates, {.warpgroups = kSkipRows / kBlockRows, .aligned = true}, Sequences::kSkipping,
         log_lambda, stream);
}

void prepare_beside_skip(const AttentionParams& params, const Schedule& schedule, const MapTemplates& templates,
                         int warpgroups, cudaStream_t stream) {
  launch(params, schedule, templates, {.warpgroups = warpgroups, .aligned = false}, Sequences::kNotSkipping, nullptr,
         stream);
}

}  // namespace modelopt::kernels::cuda::sm90
