#include "kernels/cuda/sm90/backward/sequence_maps.h"

#include "kernels/cuda/cuda_error.h"

namespace modelopt::kernels::cuda::sm90 {
namespace {

constexpr int kThreads = 128;

/// One thread per map.
__global__ void __launch_bounds__(kThreads)
    move_maps(AttentionParams params, const __grid_constant__ SequenceMapTemplates templates, int heads,
              CUtensorMap* maps) {
  const std::int64_t index = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= std::int64_t{params.batch} * heads * kBackwardMapKinds) return;
  const auto kind = static_cast<int>(index % kBackwardMapKinds);
  const auto head = static_cast<int>(index / kBackwardMapKinds % heads);
  if (templates.block_rows[kind] == 0) return;
  const SequenceRange s = sequence_range(params, static_cast<int>(index / kBackwardMapKinds / heads));
  CUtensorMap* map = maps + index;
  const auto* from = reinterpret_cast<const uint4*>(&templates.maps[kind]);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(CUtensorMap) / sizeof(uint4)); ++i) {
    reinterpret_cast<uint4*>(map)[i] = from[i];
  }
  const bool of_queries = templates.of_queries[kind];
  const char* base = static_cast<const char*>(templates.base[kind]) +
                     (of_queries ? s.q_start : s.k_start) * templates.bytes_per_row[kind] +
                     head * templates.bytes_per_head[kind];
  const int extent = max(1, (of_queries ? s.q_len : s.k_len) / templates.block_rows[kind]);
  asm volatile("tensormap.replace.tile.global_address.global.b1024.b64 [%0], %1;" ::"l"(map), "l"(base) : "memory");
  switch (templates.row_dimension[kind]) {
    case 1:
      asm volatile("tensormap.replace.tile.global_dim.global.b1024.b32 [%0], 1, %1;" ::"l"(map), "r"(extent)
                   : "memory");
      break;
    case 2:
      asm volatile("tensormap.replace.tile.global_dim.global.b1024.b32 [%0], 2, %1;" ::"l"(map), "r"(extent)
                   : "memory");
      break;
    default:
      asm volatile("tensormap.replace.tile.global_dim.global.b1024.b32 [%0], 4, %1;" ::"l"(map), "r"(extent)
                   : "memory");
  }
  asm volatile("fence.proxy.tensormap::generic.release.gpu;" ::: "memory");
}

}  // namespace

void make_sequence_maps(const AttentionParams& params, const SequenceMapTemplates& templates, int heads,
                        CUtensorMap* maps, cudaStream_t stream) {
  const std::int64_t count = std::int64_t{params.batch} * heads * kBackwardMapKinds;
  move_maps<<<static_cast<unsigned>((count + kThreads - 1) / kThreads), kThreads, 0, stream>>>(params, templates, heads,
                                                                                               maps);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching move_maps for ", params.batch, " sequences");
}

}  // namespace modelopt::kernels::cuda::sm90
