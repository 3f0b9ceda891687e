// One warp per block, one chunk of keys at a time.
//
//   tile     16 keys. M = 16 rows of mma.m16n8k16 are those of a row block. Two products of 8 keys for the scores,
//            kHeadDim / 8 for the output.
//   shared   kStages stages of one tile of K and one of V, as rows of 16-byte pieces; piece c of key row r lies at
//            c ^ (r % 8), so that ldmatrix has no bank conflict. 24 KB for kHeadDim 128 (3 stages): nine warps on an
//            H100's multiprocessor keep 144 KB of copies under way, where 20 KB cover the latency of memory.
//   order    wait for the oldest stage, refill the stage that was read last, compute. Lanes wait for their own copies
//            (cp.async.wait_group) and then for each other (__syncwarp); nothing else is shared.
//   registers the output's kHeadDim / 2 and the queries' kHeadDim / 4 words.
//
// Work is taken in strides of the grid, parts of a chunk fastest: the warps of a moment read the same keys' heads,
// which are neighbours in memory.
#pragma once

#include <algorithm>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/decode/chunk_list.cuh"
#include "kernels/cuda/decode/launch_decode.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/sm80/mma_sync.cuh"

namespace modelopt::kernels::cuda::decode {

template <typename Element_, int kHeadDim_>
struct SplitConfig {
  using Element = Element_;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kTileKeys = 16;
  static constexpr int kStages = 3;
  static constexpr int kRowPieces = kHeadDim / 8;
  static constexpr int kTilePieces = kTileKeys * kRowPieces;
  static constexpr int kTileBytes = kTilePieces * 16;
  static constexpr int kStageBytes = 2 * kTileBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes;
  static_assert(kTilePieces % kWarp == 0 && kSharedBytes <= 48 * 1024);
};

/// One warp's work on one chunk.
template <typename Config>
class ChunkAttention {
  using Element = typename Config::Element;
  static constexpr int kHeadDim = Config::kHeadDim;
  static constexpr int kSteps = kHeadDim / 16;

 public:
  __device__ ChunkAttention(const DecodeParams& d, int lane, unsigned char* shared)
      : d_(d), p_(d.attention), lane_(lane), shared_(sm80::shared_address(shared)) {}

  /// Leaves the rows of chunk `index` of the sequence in slot `slot` of the workspace.
  __device__ void run(const SequenceRange& sequence, int part, int index, int chunk_log2, std::int64_t slot) {
    select(sequence, part);
    const KeySpan visible = visible_keys(p_, sequence);
    const int chunk = first_chunk(visible, chunk_log2) + index;
    const int begin = max(visible.begin, chunk << chunk_log2);
    const int end = min(visible.end - 1, (chunk << chunk_log2) + ((1 << chunk_log2) - 1)) + 1;
    const int first = begin / Config::kTileKeys * Config::kTileKeys;
    const int tiles = (end - first + Config::kTileKeys - 1) / Config::kTileKeys;
    for (int t = 0; t < Config::kStages - 1; ++t) load_tile(t, first + t * Config::kTileKeys, t < tiles);
    load_queries();
    reset();
    for (int t = 0, stage = 0; t < tiles; ++t) {
      sm80::wait_for_copies<Config::kStages - 2>();
      __syncwarp();
      const int ahead = t + Config::kStages - 1;
      load_tile(stage == 0 ? Config::kStages - 1 : stage - 1, first + ahead * Config::kTileKeys, ahead < tiles);
      attend(shared_ + stage * Config::kStageBytes, first + t * Config::kTileKeys);
      stage = stage == Config::kStages - 1 ? 0 : stage + 1;
    }
    __syncwarp();  // the next chunk's copies go to stages that other lanes may still read
    store_softmax(slot);
    store_output(slot);
  }

 protected:
  __device__ void select(const SequenceRange& sequence, int part) {
    sequence_ = sequence;
    kv_head_ = part / d_.row_blocks;
    first_row_ = part % d_.row_blocks * kRowBlock;
    k_ = static_cast<const Element*>(p_.k) + sequence.k_start * p_.k_strides.row + kv_head_ * p_.k_strides.head;
    v_ = static_cast<const Element*>(p_.v) + sequence.k_start * p_.v_strides.row + kv_head_ * p_.v_strides.head;
  }

  /// Asks for a tile's K and V; keys beyond the sequence and elements beyond head_dim become zeros. Without `wanted`
  /// only counts as one of the copies to wait for.
  __device__ void load_tile(int stage, int first_key, bool wanted) {
    if (wanted) {
      const std::uint32_t k_tile = shared_ + stage * Config::kStageBytes;
      const std::uint32_t v_tile = k_tile + Config::kTileBytes;
#pragma unroll 4
      for (int i = 0; i < Config::kTilePieces / kWarp; ++i) {
        const int number = i * kWarp + lane_;
        const int row = number / Config::kRowPieces, piece = number % Config::kRowPieces;
        const bool exists = first_key + row < sequence_.k_len && piece * 8 < p_.head_dim;
        const std::int64_t key = exists ? first_key + row : 0;
        const int element = exists ? piece * 8 : 0;
        const int at = (row * Config::kRowPieces + (piece ^ (row & 7))) * 16;
        sm80::copy_async_16(k_tile + at, k_ + key * p_.k_strides.row + element, exists ? 16 : 0);
        sm80::copy_async_16(v_tile + at, v_ + key * p_.v_strides.row + element, exists ? 16 : 0);
      }
    }
    sm80::commit_copies();
  }

  /// Row `row` of the mma as the operator knows it.
  struct QueryRow {
    int token;  ///< in its sequence
    int head;   ///< of all query heads
  };
  __device__ QueryRow query_row(int row) const {
    const int of_key_head = first_row_ + row;
    return {of_key_head / d_.group, kv_head_ * d_.group + of_key_head % d_.group};
  }
  [[nodiscard]] __device__ bool exists(int row) const { return first_row_ + row < sequence_.q_len * d_.group; }
  /// Rows of this lane: lane / 4 and lane / 4 + 8.
  [[nodiscard]] __device__ int own_row(int half) const { return lane_ / 4 + 8 * half; }

  /// Operand A of the scores: element (lane % 4) * 2 + {0, 1} of each 8 of the own rows; zeros where there is none.
  __device__ void load_queries() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const QueryRow row = query_row(own_row(half));
      const bool valid = exists(own_row(half));
      const Element* q = static_cast<const Element*>(p_.q) + (sequence_.q_start + row.token) * p_.q_strides.row +
                         row.head * p_.q_strides.head;
      position_[half] = row.token + sequence_.k_len - sequence_.q_len;
#pragma unroll
      for (int eight = 0; eight < kHeadDim / 8; ++eight) {
        const bool inside = valid && eight * 8 < p_.head_dim;
        const auto* pair = reinterpret_cast<const std::uint32_t*>(q + eight * 8 + lane_ % 4 * 2);
        query_[eight / 2][eight % 2 * 2 + half] = inside ? *pair : 0u;
      }
    }
  }

  __device__ void reset() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      maximum_[half] = kNegativeInfinity<float>;
      sum_[half] = 0.0f;
    }
#pragma unroll
    for (auto& eight : output_) {
      for (float& value : eight) value = 0.0f;
    }
  }

  /// Scores of a tile: own rows against keys (lane % 4) * 2 + {0, 1} of each 8. Two chains of products for each score:
  /// half the latency.
  __device__ void multiply_keys(float (&scores)[2][4], std::uint32_t k_tile) const {
    const int row = lane_ % 8 + lane_ / 16 * 8;
    const std::uint32_t base = k_tile + row * Config::kRowPieces * 16;
    float odd[2][4] = {};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      std::uint32_t k[4];
      sm80::load_matrices(k, base + ((2 * step + lane_ / 8 % 2) ^ (row & 7)) * 16);
      auto& sums = step % 2 == 0 ? scores : odd;
      sm80::mma_16x8x16<Element>(sums[0], query_[step], k[0], k[1]);
      sm80::mma_16x8x16<Element>(sums[1], query_[step], k[2], k[3]);
    }
#pragma unroll
    for (int eight = 0; eight < 2; ++eight) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[eight][i] += odd[eight][i];
    }
  }

  __device__ void multiply_values(const std::uint32_t (&weights)[4], std::uint32_t v_tile) {
    const int row = lane_ % 16;
    const std::uint32_t base = v_tile + row * Config::kRowPieces * 16;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      std::uint32_t v[4];
      sm80::load_matrices_transposed(v, base + ((2 * step + lane_ / 16) ^ (row & 7)) * 16);
      sm80::mma_16x8x16<Element>(output_[2 * step], weights, v[0], v[1]);
      sm80::mma_16x8x16<Element>(output_[2 * step + 1], weights, v[2], v[3]);
    }
  }

  __device__ void hide(float (&scores)[2][4], int first_key) const {
#pragma unroll
    for (int eight = 0; eight < 2; ++eight) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = first_key + eight * 8 + lane_ % 4 * 2 + i % 2;
        if (!visible_by_position(p_, position_[i / 2], key, sequence_.k_len))
          scores[eight][i] = kNegativeInfinity<float>;
      }
    }
  }

  /// Whether every row sees every key of the tile by position.
  [[nodiscard]] __device__ bool interior(int first_key) const {
    const int last_key = first_key + Config::kTileKeys - 1;
    const int first_position = sequence_.k_len - sequence_.q_len;
    return last_key < sequence_.k_len && (!p_.is_causal || last_key <= first_position) &&
           (p_.sliding_window == 0 || sequence_.k_len - 1 - first_key < p_.sliding_window);
  }

  /// One step of the online softmax, and the weights as operand A. Differences of scores are taken before they are
  /// scaled: a product of a large score would be off by more than 1. A +inf maximum makes weights NaN, as it has to.
  __device__ void weigh(float (&scores)[2][4], std::uint32_t (&weights)[4]) {
    const float scale = p_.scale * kLog2E;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float* a = &scores[0][2 * half];
      float* b = &scores[1][2 * half];
      float largest = fmaxf(fmaxf(a[0], a[1]), fmaxf(b[0], b[1]));
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
      largest = fmaxf(largest, maximum_[half]);
      const float shift = largest == kNegativeInfinity<float> ? 0.0f : largest;
      const float rescale = exp2_approx((maximum_[half] - shift) * scale);
      maximum_[half] = largest;
      for (float* pair : {a, b}) {
        pair[0] = exp2_approx((pair[0] - shift) * scale);
        pair[1] = exp2_approx((pair[1] - shift) * scale);
      }
      sum_[half] = sum_[half] * rescale + ((a[0] + a[1]) + (b[0] + b[1]));
      weights[half] = pack<Element>(a[0], a[1]);
      weights[2 + half] = pack<Element>(b[0], b[1]);
#pragma unroll
      for (auto& eight : output_) {
        eight[2 * half] *= rescale;
        eight[2 * half + 1] *= rescale;
      }
    }
  }

  __device__ void attend(std::uint32_t tile, int first_key) {
    float scores[2][4] = {};
    multiply_keys(scores, tile);
    if (!interior(first_key)) hide(scores, first_key);
    std::uint32_t weights[4];
    weigh(scores, weights);
    multiply_values(weights, tile + Config::kTileBytes);
  }

  __device__ void store_softmax(std::int64_t slot) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = sum_[half];
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      if (exists(own_row(half)) && lane_ % 4 == 0) {
        d_.partial_softmax[slot * d_.rows + own_row(half)] = {maximum_[half], sum};
      }
    }
  }

  __device__ void store_output(std::int64_t slot) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (!exists(own_row(half))) continue;
      float* output = d_.partial_output + (slot * d_.rows + own_row(half)) * p_.head_dim;
#pragma unroll
      for (int eight = 0; eight < kHeadDim / 8; ++eight) {
        if (eight * 8 >= p_.head_dim) break;
        *reinterpret_cast<float2*>(output + eight * 8 + lane_ % 4 * 2) = {output_[eight][2 * half],
                                                                          output_[eight][2 * half + 1]};
      }
    }
  }

  const DecodeParams& d_;
  const AttentionParams& p_;
  int lane_;
  std::uint32_t shared_;
  SequenceRange sequence_;
  const Element* k_ = nullptr;
  const Element* v_ = nullptr;
  int kv_head_ = 0;
  int first_row_ = 0;  ///< of the row block, among the key head's rows
  int position_[2] = {};
  std::uint32_t query_[kSteps][4];
  float maximum_[2];
  float sum_[2];
  float output_[kHeadDim / 8][4];
};

template <typename Config>
__global__ void __launch_bounds__(kWarp) split_keys(const __grid_constant__ DecodeParams d) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int lane = static_cast<int>(threadIdx.x);
  const AttentionParams& p = d.attention;
  allow_next_kernel();
  const int chunk_log2 = chunk_log2_that_fits(d, lane);
  if (blockIdx.x == 0) ChunkCursor(p, lane, chunk_log2).write_offsets(d.chunk_offsets);
  ChunkAttention<Config> attention(d, lane, shared);
  ChunkCursor cursor(p, lane, chunk_log2);
  for (std::int64_t work = blockIdx.x;; work += gridDim.x) {
    ChunkCursor::Chunk chunk;
    if (!cursor.seek(static_cast<int>(work / d.parts), chunk)) return;
    attention.run(sequence_range(p, chunk.sequence), static_cast<int>(work % d.parts), chunk.index, chunk_log2, work);
  }
}

template <typename Element, int kHeadDim>
void launch_split_keys(const DecodeParams& params, cudaStream_t stream) {
  using Config = SplitConfig<Element, kHeadDim>;
  int device = 0, processors = 0, blocks_per_processor = 0;
  MODELOPT_CUDA_CHECK(cudaGetDevice(&device), "current device");
  MODELOPT_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
                      "multiprocessors of GPU ", device);
  MODELOPT_CUDA_CHECK(cudaFuncSetAttribute(split_keys<Config>, cudaFuncAttributePreferredSharedMemoryCarveout,
                                           cudaSharedmemCarveoutMaxShared),
                      "asking for all shared memory");
  MODELOPT_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_per_processor, split_keys<Config>, kWarp,
                                                                    Config::kSharedBytes),
                      "occupancy of split_keys");
  const std::int64_t work = std::int64_t{params.capacity} * params.parts;
  const std::int64_t resident = std::int64_t{processors} * blocks_per_processor;
  const auto blocks = static_cast<unsigned>(std::clamp<std::int64_t>(work, 1, resident));  // one writes the offsets
  split_keys<Config><<<blocks, kWarp, Config::kSharedBytes, stream>>>(params);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching split_keys with ", blocks, " blocks, head_dim ",
                      params.attention.head_dim);
}

}  // namespace modelopt::kernels::cuda::decode
