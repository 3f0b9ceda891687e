// split_keys with skip-softmax: one warp per block, one chunk of keys at a time, K read once and V of attended blocks.
//
//   score    all keys of the chunk: scores to shared memory, maxima of the chunk's key blocks. A block that reaches out
//            of the chunk is scored as a whole, for its maximum; with skip_bc = 128 none does.
//   decide   publishes the chunk's maxima, waits for those of the chunks before it (chunk_prefix.cuh), and votes: one
//            lane for each row. Rows of one head and one query block decide together.
//   attend   the tiles in which some row attends to a block, as split_keys does; the scores of what a row skips are
//            -inf. Keys that no row attends to are not read. Where nothing is skipped the bits are those of split_keys.
//
//   shared   ring of kRing tiles of 16 keys, of K and then of V | scores [rows, kScorePitch] |
//            maxima [rows, kMaxBlocks]
//            25 KB for kHeadDim 128 and 4 rows: eight warps on an H100's multiprocessor with 128 KB of copies under way
//   order    warps take chunks in the order of the list, one when they are done with the one before
#pragma once

#include <algorithm>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/decode/chunk_prefix.cuh"
#include "kernels/cuda/decode/split_keys.cuh"

namespace modelopt::kernels::cuda::decode {

template <typename Element, int kHeadDim>
struct SkipConfig : SplitConfig<Element, kHeadDim> {
  using Base = SplitConfig<Element, kHeadDim>;
  static constexpr int kRing = 2 * Base::kStages - 1;
  static constexpr int kRingBytes = kRing * Base::kTileBytes;
  static constexpr int kChunkKeys = 1 << kChunkKeysLog2;
  static constexpr int kUnit = 8;                     ///< blocks begin and end at multiples of it
  static constexpr int kScorePitch = kChunkKeys + 8;  ///< rows of a quad's neighbours lie in other banks
  static constexpr int kMaxBlocks = kChunkKeys / kUnit;
  static_assert(kMaxBlocks == 32, "a word has a bit for each block and for each unit of a chunk");
  static constexpr int shared_bytes(int rows) {
    return kRingBytes + rows * (kScorePitch + kMaxBlocks) * static_cast<int>(sizeof(float));
  }
};

template <class Config>
class SkippingChunk : private ChunkAttention<Config> {
  using Base = ChunkAttention<Config>;
  using Element = typename Config::Element;

 public:
  __device__ SkippingChunk(const DecodeParams& d, int lane, unsigned char* shared)
      : Base(d, lane, shared),
        scores_(reinterpret_cast<float*>(shared + Config::kRingBytes)),
        block_maxima_(scores_ + d.rows * Config::kScorePitch) {}

  /// Leaves the rows of chunk `index` of sequence b in slot `slot` of the workspace.
  __device__ void run(int b, int kv_head, int index, std::int64_t slot) {
    this->select(sequence_range(p_, b), kv_head);
    visible_ = visible_keys(p_, sequence_);
    chunk_begin_ = (first_chunk(visible_, kChunkKeysLog2) + index) << kChunkKeysLog2;
    begin_ = max(visible_.begin, chunk_begin_);
    end_ = min(visible_.end, chunk_begin_ + Config::kChunkKeys);
    this->load_queries(kv_head);
    score_blocks();
    const float log_lambda = log_lambda_of(p_, b);
    blocks_attended_ = decide(ChunkPrefix(d_, lane_, slot, index), log_lambda);
    const std::uint32_t units = units_of(blocks_attended_);
    if (p_.mask != nullptr || p_.stats != nullptr) record(b, kv_head, units);
    attend_units(units);
    if (poisoned(0)) sum_[0] = __int_as_float(0x7fffffff);
    if (poisoned(1)) sum_[1] = __int_as_float(0x7fffffff);
    this->store(slot);
    __syncwarp();  // the next chunk's scores and copies go where other lanes may still read
  }

 private:
  using Base::d_;
  using Base::lane_;
  using Base::maximum_;
  using Base::own_row;
  using Base::p_;
  using Base::sequence_;
  using Base::shared_;
  using Base::sum_;

  // --- tiles ---------------------------------------------------------------------------------------------------------

  /// Asks for 16 rows of a head from first_key on, in a slot of the ring. Bit u of `units`: the u-th eight of them are
  /// wanted; others, keys beyond the sequence and elements beyond head_dim become zeros.
  __device__ void load_rows(int slot, const Element* head, std::int64_t row_stride, int first_key,
                            std::uint32_t units) {
    const std::uint32_t tile = shared_ + slot * Config::kTileBytes;
#pragma unroll 4
    for (int i = 0; i < Config::kTilePieces / kWarp; ++i) {
      const int number = i * kWarp + lane_;
      const int row = number / Config::kRowPieces, piece = number % Config::kRowPieces;
      const bool inside = first_key + row < sequence_.k_len && piece * 8 < p_.head_dim;
      const bool wanted = inside && (units >> (row / Config::kUnit) & 1) != 0;
      const std::int64_t key = wanted ? first_key + row : 0;
      const int element = wanted ? piece * 8 : 0;
      sm80::copy_async_16(tile + (row * Config::kRowPieces + (piece ^ (row & 7))) * 16,
                          head + key * row_stride + element, wanted);
    }
  }

  /// Streams `count` tiles through the ring: load(slot, t) asks for tile t, use(tile, t) finds it in shared memory.
  template <typename Load, typename Use>
  __device__ void stream(int count, Load load, Use use) {
    constexpr int kAhead = Config::kRing - 1;
    for (int t = 0; t < kAhead; ++t) {
      if (t < count) load(t, t);
      sm80::commit_copies();
    }
    for (int t = 0, slot = 0; t < count; ++t) {
      sm80::wait_for_copies<kAhead - 1>();
      __syncwarp();
      if (t + kAhead < count) load(slot == 0 ? kAhead : slot - 1, t + kAhead);
      sm80::commit_copies();
      use(shared_ + slot * Config::kTileBytes, t);
      slot = slot == kAhead ? 0 : slot + 1;
    }
    __syncwarp();
  }

  // --- score ---------------------------------------------------------------------------------------------------------

  __device__ void score_blocks() {
    const int bc = p_.skip_bc;
    first_block_ = begin_ / bc;
    block_end_ = (first_block_ + 1) * bc;
    blocks_ = 0;
    flags_ = 0;
    for (int half = 0; half < 2; ++half) block_maximum_[half] = own_maximum_[half] = kNegativeInfinity<float>;
    const int first = max(first_block_ * bc, visible_.begin) / Config::kUnit * Config::kUnit;
    const int end = min(((end_ - 1) / bc + 1) * bc, visible_.end);
    const int first_tile = first / Config::kTileKeys * Config::kTileKeys;
    const int tiles = (end - first_tile + Config::kTileKeys - 1) / Config::kTileKeys;
    stream(
        tiles,
        [&](int slot, int t) { load_rows(slot, this->k_, p_.k_strides.row, first_tile + t * Config::kTileKeys, 3u); },
        [&](std::uint32_t tile, int t) {
          const int first_key = first_tile + t * Config::kTileKeys;
          float x[2][4] = {};
          this->multiply_keys(x, tile);
          if (!this->interior(first_key)) this->hide(x, first_key);
#pragma unroll
          for (int unit = 0; unit < 2; ++unit) {
            const int key = first_key + unit * Config::kUnit;
            if (key >= first && key < end) take_unit(x[unit], key, end);
          }
        });
  }

  /// Takes in the scores of own rows against keys `key` + (lane % 4) * 2 + {0, 1}. `end` is the end of all that is
  /// scored.
  __device__ void take_unit(const float (&x)[4], int key, int end) {
    const bool own = key >= chunk_begin_ && key < chunk_begin_ + Config::kChunkKeys;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float first = x[2 * half], second = x[2 * half + 1];
      const bool nan = first != first || second != second;
      const float largest = fmaxf(first, second);
      block_maximum_[half] = fmaxf(block_maximum_[half], largest);
      flags_ |= nan ? nan_flag(half) : 0u;
      if (!own) continue;
      own_maximum_[half] = fmaxf(own_maximum_[half], largest);
      flags_ |= nan || largest == -kNegativeInfinity<float> ? poison_flag(half) : 0u;
      if (own_row(half) >= d_.rows) continue;
      float* target = scores_ + own_row(half) * Config::kScorePitch + (key - chunk_begin_) + lane_ % 4 * 2;
      *reinterpret_cast<float2*>(target) = {first, second};
    }
    if (key + Config::kUnit >= min(block_end_, end)) close_block();
  }

  /// Stores the maxima of the current block: NaN for a row that sees none of its keys, -inf for one that sees NaN
  /// alone.
  __device__ void close_block() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float largest = over_quad(block_maximum_[half]);
      const bool sees = flag_in_quad(nan_flag(half)) || largest != kNegativeInfinity<float>;
      if (lane_ % 4 == 0 && own_row(half) < d_.rows) {
        block_maxima_[own_row(half) * Config::kMaxBlocks + blocks_] = sees ? largest : __int_as_float(0x7fffffff);
      }
      block_maximum_[half] = kNegativeInfinity<float>;
    }
    flags_ &= ~(nan_flag(0) | nan_flag(1));
    ++blocks_;
    block_end_ += p_.skip_bc;
  }

  [[nodiscard]] static __device__ float over_quad(float value) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, 1));
    return fmaxf(value, __shfl_xor_sync(kAllLanes, value, 2));
  }

  /// The lane saw NaN in the current block; it saw NaN or +inf in the chunk.
  [[nodiscard]] static __device__ constexpr std::uint32_t nan_flag(int half) { return 1u << half; }
  [[nodiscard]] static __device__ constexpr std::uint32_t poison_flag(int half) { return 4u << half; }

  [[nodiscard]] __device__ bool flag_in_quad(std::uint32_t flag) const {
    const unsigned lanes = __ballot_sync(kAllLanes, (flags_ & flag) != 0);
    return (lanes >> (lane_ & ~3) & 0xFu) != 0;
  }
  [[nodiscard]] __device__ bool poisoned(int half) const { return flag_in_quad(poison_flag(half)); }

  // --- decide --------------------------------------------------------------------------------------------------------

  /// Lane r has a row if row r exists.
  [[nodiscard]] __device__ bool has_row() const { return lane_ < d_.rows && this->exists(lane_); }

  /// The value of own rows' quads, which lanes 4 i hold for rows i and i + 8, for lane r = row r.
  [[nodiscard]] __device__ float by_row(const float (&of_quad)[2]) const {
    const float low = __shfl_sync(kAllLanes, of_quad[0], lane_ % 8 * 4);
    const float high = __shfl_sync(kAllLanes, of_quad[1], lane_ % 8 * 4);
    return lane_ < 8 ? low : high;
  }

  /// Lanes whose rows decide together: the same head, the same block of query rows.
  [[nodiscard]] __device__ unsigned peers() const {
    const int token = lane_ / d_.group;
    const int block = floor_div(token + sequence_.k_len - sequence_.q_len, p_.skip_br);
    const int first = floor_div(sequence_.k_len - sequence_.q_len, p_.skip_br);
    return __match_any_sync(kAllLanes, has_row() ? (block - first) * d_.group + lane_ % d_.group : -1 - lane_);
  }

  /// Bit b is set iff the lane's row attends to the chunk's b-th block.
  __device__ std::uint32_t decide(const ChunkPrefix& prefix, float log_lambda) {
    const float of_quad[2] = {over_quad(own_maximum_[0]), over_quad(own_maximum_[1])};
    const float own_maximum = by_row(of_quad);
    float running = kNegativeInfinity<float>;
    if (log_lambda != kNegativeInfinity<float>) {
      prefix.publish(own_maximum, kOwnMaxima);
      running = prefix.before();
      prefix.publish(fmaxf(running, own_maximum), kPrefixMaxima);
    }
    __syncwarp();
    peers_ = peers();
    seen_blocks_ = 0;
    std::uint32_t attended = 0;
    for (int b = 0; b < blocks_; ++b) {
      const float largest = has_row() ? block_maxima_[lane_ * Config::kMaxBlocks + b] : __int_as_float(0x7fffffff);
      const bool sees = largest == largest;
      running = fmaxf(running, largest);
      const bool wants = sees && !row_votes_skip(largest, running, p_.scale, log_lambda);
      seen_blocks_ |= static_cast<std::uint32_t>((__ballot_sync(kAllLanes, sees) & peers_) != 0) << b;
      attended |= static_cast<std::uint32_t>((__ballot_sync(kAllLanes, wants) & peers_) != 0) << b;
    }
    return attended;
  }

  /// Of the chunk's units, those in the blocks.
  [[nodiscard]] __device__ std::uint32_t units_of(std::uint32_t blocks) const {
    std::uint32_t units = 0;
    int block = 0, block_end = (first_block_ + 1) * p_.skip_bc;
    for (int unit = (begin_ - chunk_begin_) / Config::kUnit; unit < Config::kMaxBlocks; ++unit) {
      const int key = chunk_begin_ + unit * Config::kUnit;
      if (key >= end_) break;
      if (key >= block_end) {
        ++block;
        block_end += p_.skip_bc;
      }
      units |= (blocks >> block & 1u) << unit;
    }
    return units;
  }

  // --- attend --------------------------------------------------------------------------------------------------------

  /// `units` are those of the lane's row.
  __device__ void attend_units(std::uint32_t units) {
    const std::uint32_t own_units[2] = {__shfl_sync(kAllLanes, units, own_row(0)),
                                        __shfl_sync(kAllLanes, units, own_row(1))};
    const std::uint32_t wanted = __reduce_or_sync(kAllLanes, has_row() ? units : 0u);
    const std::uint32_t tiles = (wanted | wanted >> 1) & 0x55555555u;  // at the bit of the tile's first unit
    std::uint32_t to_load = tiles, to_use = tiles;
    this->reset();
    stream(
        __popc(tiles),
        [&](int slot, int) {
          const int unit = pop_lowest(to_load);
          load_rows(slot, this->v_, p_.v_strides.row, chunk_begin_ + unit * Config::kUnit, wanted >> unit & 3u);
        },
        [&](std::uint32_t tile, int) {
          const int unit = pop_lowest(to_use);
          float x[2][4];
          read_scores(x, unit, own_units);
          std::uint32_t weights[4];
          this->weigh(x, weights);
          this->multiply_values(weights, tile);
        });
  }

  [[nodiscard]] static __device__ int pop_lowest(std::uint32_t& bits) {
    const int lowest = __ffs(static_cast<int>(bits)) - 1;
    bits &= bits - 1;
    return lowest;
  }

  /// Scores of two units; -inf for what the row skips.
  __device__ void read_scores(float (&x)[2][4], int unit, const std::uint32_t (&own_units)[2]) const {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float2 pair = {kNegativeInfinity<float>, kNegativeInfinity<float>};
        if (own_row(half) < d_.rows && (own_units[half] >> (unit + e) & 1) != 0) {
          pair = *reinterpret_cast<const float2*>(scores_ + own_row(half) * Config::kScorePitch +
                                                  (unit + e) * Config::kUnit + lane_ % 4 * 2);
        }
        x[e][2 * half] = pair.x;
        x[e][2 * half + 1] = pair.y;
      }
    }
  }

  // --- mask and statistics -------------------------------------------------------------------------------------------

  /// `units` are those of the lane's row that it attends to.
  __device__ void record(int b, int kv_head, std::uint32_t units) const {
    unsigned long long pairs_visible = 0, pairs_attended = 0;
    const int first_unit = (begin_ - chunk_begin_) / Config::kUnit;
    for (int unit = first_unit; has_row() && chunk_begin_ + unit * Config::kUnit < end_; ++unit) {
      std::uint32_t visible = 0;
      for (int i = 0; i < Config::kUnit; ++i) {
        const float x = scores_[lane_ * Config::kScorePitch + unit * Config::kUnit + i];
        visible |= static_cast<std::uint32_t>(x != kNegativeInfinity<float>) << i;
      }
      const std::uint32_t attended = (units >> unit & 1) != 0 ? visible : 0u;
      pairs_visible += __popc(visible);
      pairs_attended += __popc(attended);
      if (p_.mask != nullptr) {
        const std::int64_t row = std::int64_t{sequence_.q_start} + lane_ / d_.group;
        const int head = kv_head * d_.group + lane_ % d_.group;
        p_.mask[(row * p_.heads + head) * p_.mask_bytes + chunk_begin_ / Config::kUnit + unit] =
            static_cast<std::uint8_t>(attended);
      }
    }
    if (p_.stats == nullptr || !has_row()) return;
    auto* stats = reinterpret_cast<unsigned long long*>(p_.stats) +
                  (std::int64_t{b} * p_.heads + kv_head * d_.group + lane_ % d_.group) * 4;
    atomicAdd(stats + 2, pairs_visible);
    atomicAdd(stats + 3, pairs_attended);
    if (lane_ != __ffs(static_cast<int>(peers_)) - 1) return;
    // A block that began in the chunk before was counted there.
    const bool counted_before = max(first_block_ * p_.skip_bc, visible_.begin) < begin_;
    const std::uint32_t counted = seen_blocks_ & (counted_before ? ~1u : ~0u);
    atomicAdd(stats, static_cast<unsigned long long>(__popc(counted)));
    atomicAdd(stats + 1, static_cast<unsigned long long>(__popc(counted & ~blocks_attended_)));
  }

  float* scores_;
  float* block_maxima_;
  KeySpan visible_;      ///< of the sequence
  int chunk_begin_ = 0;  ///< a multiple of kChunkKeys
  int begin_ = 0, end_ = 0;
  int first_block_ = 0;  ///< the block of begin_
  int block_end_ = 0;    ///< of the current block
  int blocks_ = 0;       ///< that are scored
  float block_maximum_[2];
  float own_maximum_[2];
  std::uint32_t flags_ = 0;
  unsigned peers_ = 0;
  std::uint32_t seen_blocks_ = 0;      ///< by the lane's row or a peer
  std::uint32_t blocks_attended_ = 0;  ///< by them
};

template <class Config>
__global__ void __launch_bounds__(kWarp) skip_keys(const __grid_constant__ DecodeParams d) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int lane = static_cast<int>(threadIdx.x);
  const AttentionParams& p = d.attention;
  allow_next_kernel();
  if (blockIdx.x == 0) ChunkCursor(p, lane, kChunkKeysLog2).write_offsets(d.chunk_offsets);
  SkippingChunk<Config> attention(d, lane, shared);
  ChunkCursor cursor(p, lane, kChunkKeysLog2);
  while (true) {
    unsigned work = 0;
    if (lane == 0) work = atomicAdd(d.next_work, 1u);
    work = __shfl_sync(kAllLanes, work, 0);
    ChunkCursor::Chunk chunk;
    if (!cursor.seek(static_cast<int>(work / p.kv_heads), chunk)) return;
    attention.run(chunk.sequence, static_cast<int>(work % p.kv_heads), chunk.index, work);
  }
}

template <typename Element, int kHeadDim>
void launch_skip_keys(const DecodeParams& params, cudaStream_t stream) {
  using Config = SkipConfig<Element, kHeadDim>;
  const int bytes = Config::shared_bytes(params.rows);
  int device = 0, processors = 0, blocks_per_processor = 0;
  MODELOPT_CUDA_CHECK(cudaGetDevice(&device), "current device");
  MODELOPT_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
                      "multiprocessors of GPU ", device);
  constexpr int kMostBytes = Config::shared_bytes(kMaxRows);  // the same for all calls: other threads may launch too
  MODELOPT_CUDA_CHECK(cudaFuncSetAttribute(skip_keys<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostBytes),
                      "asking for ", kMostBytes, " bytes of shared memory a block");
  MODELOPT_CUDA_CHECK(cudaFuncSetAttribute(skip_keys<Config>, cudaFuncAttributePreferredSharedMemoryCarveout,
                                           cudaSharedmemCarveoutMaxShared),
                      "asking for all shared memory");
  MODELOPT_CUDA_CHECK(
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_per_processor, skip_keys<Config>, kWarp, bytes),
      "occupancy of skip_keys");
  const std::int64_t work = std::int64_t{params.capacity} * params.attention.kv_heads;
  const std::int64_t resident = std::int64_t{processors} * blocks_per_processor;
  const auto blocks = static_cast<unsigned>(std::clamp<std::int64_t>(work, 1, resident));  // one writes the offsets
  skip_keys<Config><<<blocks, kWarp, bytes, stream>>>(params);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching skip_keys with ", blocks, " blocks, head_dim ",
                      params.attention.head_dim);
}

}  // namespace modelopt::kernels::cuda::decode
