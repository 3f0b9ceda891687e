// Attention backward for fp32 inputs on the FMA units. Rows and columns are those of backward_kernel.cuh.
//
// One block of 4 warps: kFp32BackwardRows rows, 4 for each warp; one loop over tiles of 32 columns. Lane l owns column
// l of the tile in the scores, and elements l, l + 32, … of the gradients. A score is the sum of four chains of fused
// multiply-adds.
//
//   shared memory   A | A' | B | B' (padded: an odd number of 16-byte pieces a row); at most 99 KiB
//   registers       4 rows x kElements of each gradient
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/backward/attended_bits.cuh"
#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/sm80/backward/launch_backward.h"
#include "kernels/cuda/sm80/fp32_tile.cuh"

namespace modelopt::kernels::cuda::sm80 {
namespace {

constexpr int kWarpRows = kFp32BackwardRows / kFp32Warps;
constexpr int kColumns = kFp32TileKeys;
constexpr std::uint32_t kWarp = 0xFFFFFFFFu;

constexpr int shared_floats(int head_dim) {
  return 2 * kFp32BackwardRows * row_floats(head_dim) + 2 * kColumns * key_row_floats(head_dim);
}

/// A tensor's rows of one sequence and head.
struct HeadRows {
  const float* data;
  std::int64_t stride;
};

/// The lane's column times each of the warp's rows, in four chains.
__device__ void multiply_rows(float (&x)[kWarpRows], const float* rows, int width, const float* column) {
  float4 chains[kWarpRows] = {};
#pragma unroll 1
  for (int d = 0; d < width; d += 4) {
    const float4 c = *reinterpret_cast<const float4*>(column + d);
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      const float4 a = *reinterpret_cast<const float4*>(rows + r * width + d);
      chains[r].x = __fmaf_rn(a.x, c.x, chains[r].x);
      chains[r].y = __fmaf_rn(a.y, c.y, chains[r].y);
      chains[r].z = __fmaf_rn(a.z, c.z, chains[r].z);
      chains[r].w = __fmaf_rn(a.w, c.w, chains[r].w);
    }
  }
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    x[r] = __fadd_rn(__fadd_rn(chains[r].x, chains[r].y), __fadd_rn(chains[r].z, chains[r].w));
  }
}

struct Stats {
  float logsumexp, dot;
};

/// kElements * 32 >= head_dim.
template <bool kRowsAreQueries, int kElements>
__global__ void __launch_bounds__(kFp32Threads, 2) backward_fp32(const __grid_constant__ BackwardLaunch launch) {
  extern __shared__ __align__(16) float shared_fp32_backward[];
  const BackwardParams& b = launch.params;
  const AttentionParams& p = b.attention;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int heads = kRowsAreQueries ? p.heads : p.kv_heads;
  const auto tiles = static_cast<unsigned>(launch.row_tiles);
  const auto of_batch = static_cast<int>(blockIdx.x / tiles);
  const int head = of_batch % heads;
  const SequenceRange s = sequence_range(p, of_batch / heads);
  const int first_row = static_cast<int>(blockIdx.x % tiles) * kFp32BackwardRows;
  const int rows_end = kRowsAreQueries ? s.q_len : s.k_len;
  const int columns_end = kRowsAreQueries ? s.k_len : s.q_len;
  if (first_row >= rows_end) return;

  const auto columns_of = [&](int first, int last) {
    return kRowsAreQueries ? keys_of_queries(p, s.q_len, s.k_len, first, last)
                           : queries_of_keys(p, s.q_len, s.k_len, first, last);
  };
  const ColumnRange range = columns_of(first_row, min(first_row + kFp32BackwardRows, rows_end) - 1);
  const int group = p.heads / p.kv_heads;
  const int first_head = kRowsAreQueries ? head : head * group;
  const int end_head = kRowsAreQueries ? head + 1 : first_head + group;
  const auto stats_of = [&](int query_head, int query) -> Stats {
    if (query >= s.q_len) return {-kNegativeInfinity<float>, 0.0f};
    const float2 stats = b.row_stats[query_head * std::int64_t{p.total_q} + s.q_start + query];
    return {stats.x, stats.y};
  };
  const auto attends = [&](int query_head, int query, int key) {
    if (query >= s.q_len || key >= s.k_len) return false;
    if (p.mask == nullptr) return visible_by_position(p, query + s.k_len - s.q_len, key, s.k_len);
    const std::uint8_t* row = p.mask + (std::int64_t{s.q_start + query} * p.heads + query_head) * p.mask_bytes;
    return (row[key / 8] >> (key % 8) & 1) != 0;
  };
  const auto head_rows = [](const void* tensor, const Strides& strides, int first, int tensor_head) {
    return HeadRows{head_of(tensor, strides, first, tensor_head), strides.row};
  };
  const auto copy = [&](float* tile, int pitch, int count, const HeadRows& from, int first, int end) {
    copy_rows(tile, pitch, count, from.data, from.stride, first, end, p.head_dim);
  };
  const auto queries = [&](int query_head) { return head_rows(p.q, p.q_strides, s.q_start, query_head); };
  const auto output_gradient = [&](int query_head) {
    return head_rows(b.grad_output, b.query_rows, s.q_start, query_head);
  };
  const auto keys = [&](int kv_head) { return head_rows(p.k, p.k_strides, s.k_start, kv_head); };
  const auto values = [&](int kv_head) { return head_rows(p.v, p.v_strides, s.k_start, kv_head); };

  const int width = row_floats(p.head_dim);
  const int pitch = key_row_floats(p.head_dim);
  float* rows = shared_fp32_backward;
  float* second_rows = rows + kFp32BackwardRows * width;
  float* columns = second_rows + kFp32BackwardRows * width;
  float* second_columns = columns + kColumns * pitch;
  copy(rows, width, kFp32BackwardRows, kRowsAreQueries ? queries(head) : keys(head), first_row, rows_end);
  copy(second_rows, width, kFp32BackwardRows, kRowsAreQueries ? output_gradient(head) : values(head), first_row,
       rows_end);

  float score_gradient[kWarpRows][kElements] = {};
  float value_gradient[kRowsAreQueries ? 1 : kWarpRows][kElements] = {};
  const int warp_row = first_row + warp * kWarpRows;
  for (int query_head = first_head; query_head < end_head; ++query_head) {
    const int kv_head = query_head / group;
    for (int first = range.begin / kColumns * kColumns; first < range.end; first += kColumns) {
      __syncthreads();  // all warps are done with the tiles before
      copy(columns, pitch, kColumns, kRowsAreQueries ? keys(kv_head) : queries(query_head), first, columns_end);
      copy(second_columns, pitch, kColumns, kRowsAreQueries ? values(kv_head) : output_gradient(query_head), first,
           columns_end);
      __syncthreads();

      const int column = first + lane;
      float x[kWarpRows], dp[kWarpRows];
      multiply_rows(x, rows + warp * kWarpRows * width, width, columns + lane * pitch);
      multiply_rows(dp, second_rows + warp * kWarpRows * width, width, second_columns + lane * pitch);
      std::uint32_t attended[kWarpRows];  // by the row, of the tile's 32 columns
#pragma unroll
      for (int r = 0; r < kWarpRows; ++r) {
        const int row = warp_row + r;
        const Stats stats = stats_of(query_head, kRowsAreQueries ? row : column);
        const bool own = attends(query_head, kRowsAreQueries ? row : column, kRowsAreQueries ? column : row);
        attended[r] = __ballot_sync(kWarp, own);
        x[r] = own ? expf(__fmaf_rn(x[r], p.scale, -stats.logsumexp)) : 0.0f;
        dp[r] = own ? x[r] * (dp[r] - stats.dot) : 0.0f;
      }
      for (int c = 0; c < kColumns; ++c) {
        float element[kElements], second[kElements];
#pragma unroll
        for (int i = 0; i < kElements; ++i) {
          const bool inside = lane + 32 * i < p.head_dim;
          element[i] = inside ? columns[c * pitch + lane + 32 * i] : 0.0f;
          if constexpr (!kRowsAreQueries) second[i] = inside ? second_columns[c * pitch + lane + 32 * i] : 0.0f;
        }
#pragma unroll
        for (int r = 0; r < kWarpRows; ++r) {
          const float weight = __shfl_sync(kWarp, x[r], c);
          const float ds = __shfl_sync(kWarp, dp[r], c);
          if ((attended[r] >> c & 1) == 0) continue;
#pragma unroll
          for (int i = 0; i < kElements; ++i) {
            score_gradient[r][i] = __fmaf_rn(ds, element[i], score_gradient[r][i]);
            if constexpr (!kRowsAreQueries) {
              value_gradient[r][i] = __fmaf_rn(weight, second[i], value_gradient[r][i]);
            }
          }
        }
      }
    }
  }

  const Strides& strides = kRowsAreQueries ? b.query_rows : b.key_rows;
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    const int row = warp_row + r;
    if (row >= rows_end) continue;
    const std::int64_t at = ((kRowsAreQueries ? s.q_start : s.k_start) + row) * strides.row + head * strides.head;
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      const int d = lane + 32 * i;
      if (d >= p.head_dim) continue;
      const auto store = [&](void* gradient, float* sums, float value) {
        if (sums != nullptr) {
          sums[at + d] += value;
        } else if (gradient != nullptr) {
          static_cast<float*>(gradient)[at + d] = value;
        }
      };
      if constexpr (kRowsAreQueries) {
        const float logsumexp = stats_of(head, row).logsumexp;  // NaN: so is the row, whatever it attends to
        store(b.grad_q, nullptr, score_gradient[r][i] * (isnan(logsumexp) ? logsumexp : p.scale));
      } else {
        store(b.grad_k, b.sum_k, score_gradient[r][i] * p.scale);
        store(b.grad_v, b.sum_v, value_gradient[r][i]);
      }
    }
  }
}

template <bool kRowsAreQueries, int kElements>
void launch_kernel(const BackwardLaunch& launch, cudaStream_t stream) {
  const AttentionParams& p = launch.params.attention;
  const int bytes = shared_floats(p.head_dim) * static_cast<int>(sizeof(float));
  auto* kernel = &backward_fp32<kRowsAreQueries, kElements>;
  // the same for all calls: other threads may launch too
  constexpr int kMostBytes = shared_floats(32 * kElements) * static_cast<int>(sizeof(float));
  MODELOPT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostBytes),
                      "asking for ", kMostBytes, " bytes of shared memory a block");
  const auto blocks = static_cast<unsigned>(launch.row_tiles) * static_cast<unsigned>(p.batch) *
                      static_cast<unsigned>(kRowsAreQueries ? p.heads : p.kv_heads);
  kernel<<<blocks, kFp32Threads, bytes, stream>>>(launch);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching backward_fp32 with ", blocks, " blocks, head_dim ", p.head_dim);
}

template <bool kRowsAreQueries>
void launch_side(const BackwardLaunch& launch, cudaStream_t stream) {
  const int head_dim = launch.params.attention.head_dim;
  head_dim <= 64    ? launch_kernel<kRowsAreQueries, 2>(launch, stream)
  : head_dim <= 128 ? launch_kernel<kRowsAreQueries, 4>(launch, stream)
                    : launch_kernel<kRowsAreQueries, 8>(launch, stream);
}

}  // namespace

void launch_backward_fp32(const BackwardLaunch& launch, Gradients gradients, cudaStream_t stream) {
  gradients == Gradients::kQueries ? launch_side<true>(launch, stream) : launch_side<false>(launch, stream);
}

}  // namespace modelopt::kernels::cuda::sm80
