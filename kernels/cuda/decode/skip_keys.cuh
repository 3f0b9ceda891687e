// split_keys with skip-softmax: one warp per block, K read once and V of attended blocks.
//
//   score    all keys of a chunk: scores to shared memory, maxima of the chunk's key blocks. A block that reaches out
//            of the chunk is scored as a whole, for its maximum; with skip_bc = 128 none does. Publishes the chunk's
//            maxima.
//   decide   waits for the maxima of the chunks before it (chunk_prefix.cuh), and votes: one lane for each row. Rows of
//            one head and one query block decide together.
//   attend   the tiles in which some row attends to a block, as split_keys does; the scores of what a row skips are
//            -inf. Keys that no row attends to are not read, and outputs without weights are not written. Where nothing
//            is skipped the bits are those of split_keys.
//
//   shared   ring of kRing tiles of 16 keys, of K and then of V | twice: scores [rows, kScorePitch] |
//            maxima [rows, kMaxBlocks]
//            22 KB for kHeadDim 128 and 4 rows: ten warps on an H100's multiprocessor with 80 KB of copies under way
//   order    Warps take chunks in the order of the list. A warp scores its next chunk before it decides on the one at
//            hand: meanwhile the chunks before that are scored by others. (Without, the chunks of a long sequence,
//            which are worked on at once, all wait for the slowest of them, and memory is idle.)
#pragma once

#include <algorithm>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/decode/chunk_prefix.cuh"
#include "kernels/cuda/decode/split_keys.cuh"

namespace modelopt::kernels::cuda::decode {

template <typename Element, int kHeadDim>
struct SkipConfig : SplitConfig<Element, kHeadDim> {
  using Base = SplitConfig<Element, kHeadDim>;
  static constexpr int kRing = 3;
  static constexpr int kRingBytes = kRing * Base::kTileBytes;
  static constexpr int kChunkKeys = 1 << kChunkKeysLog2;
  static constexpr int kUnit = 8;                     ///< blocks begin and end at multiples of it
  static constexpr int kScorePitch = kChunkKeys + 8;  ///< rows of a quad's neighbours lie in other banks
  static constexpr int kMaxBlocks = kChunkKeys / kUnit;
  static_assert(kMaxBlocks == 32, "a word has a bit for each block and for each unit of a chunk");
  /// Floats of a chunk's scores and maxima.
  static constexpr int chunk_floats(int rows) { return rows * (kScorePitch + kMaxBlocks); }
  static constexpr int shared_bytes(int rows) {
    return kRingBytes + 2 * chunk_floats(rows) * static_cast<int>(sizeof(float));
  }
};

/// One warp's work on its chunks.
template <class Config>
class SkippingAttention : private ChunkAttention<Config> {
  using Base = ChunkAttention<Config>;
  using Element = typename Config::Element;

 public:
  __device__ SkippingAttention(const DecodeParams& d, int lane, unsigned char* shared)
      : Base(d, lane, shared), buffers_(reinterpret_cast<float*>(shared + Config::kRingBytes)) {}

  /// All chunks that this warp takes from the list; chunk i leaves its rows in slot i of the workspace.
  __device__ void run() {
    ChunkCursor cursor(p_, lane_, kChunkKeysLog2);
    Chunk current;
    if (!take(cursor, 0, current)) return;
    score(current);
    for (int buffer = 1;; buffer ^= 1) {
      Chunk next;
      const bool more = take(cursor, buffer, next);
      if (more) score(next);
      finish(current);
      if (!more) return;
      current = next;
    }
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

  /// A chunk of one sequence for one key head, and what scoring has found.
  struct Chunk {
    int batch;
    int part;
    int index;            ///< in the sequence
    std::int64_t slot;    ///< in the workspace
    float* scores;        ///< shared memory: [rows, kScorePitch]
    float* block_maxima;  ///< shared memory: [rows, kMaxBlocks]
    KeySpan visible;      ///< of the sequence
    int first_key;        ///< a multiple of kChunkKeys
    int begin, end;       ///< visible keys of the chunk
    int first_block;      ///< the block of `begin`
    int blocks;           ///< that are scored
    float maximum;        ///< lane r: of row r in the chunk
    std::uint32_t flags;  ///< poison_flag()
  };

  __device__ bool take(ChunkCursor& cursor, int buffer, Chunk& c) {
    unsigned work = 0;
    if (lane_ == 0) work = atomicAdd(d_.last_work, 1u) + 1;
    work = __shfl_sync(kAllLanes, work, 0);
    ChunkCursor::Chunk found;
    if (!cursor.seek(static_cast<int>(work / d_.parts), found)) return false;
    c.batch = found.sequence;
    c.part = static_cast<int>(work % d_.parts);
    c.index = found.index;
    c.slot = work;
    c.scores = buffers_ + buffer * Config::chunk_floats(d_.rows);
    c.block_maxima = c.scores + d_.rows * Config::kScorePitch;
    return true;
  }

  __device__ void score(Chunk& c) {
    this->select(sequence_range(p_, c.batch), c.part);
    c.visible = visible_keys(p_, sequence_);
    c.first_key = (first_chunk(c.visible, kChunkKeysLog2) + c.index) << kChunkKeysLog2;
    c.begin = max(c.visible.begin, c.first_key);
    c.end = min(c.visible.end, c.first_key + Config::kChunkKeys);
    this->load_queries();
    score_blocks(c);
    if (log_lambda_of(p_, c.batch) != kNegativeInfinity<float>) prefix_of(c).publish_own(c.maximum);
    __syncwarp();
  }

  __device__ void finish(const Chunk& c) {
    this->select(sequence_range(p_, c.batch), c.part);
    const Decision decision = decide(c);
    const std::uint32_t units = units_of(c, decision.attended);
    if (p_.mask != nullptr || p_.stats != nullptr) record(c, decision, units);
    attend_units(c, units);
    if (flag_in_quad(c.flags, poison_flag(0))) sum_[0] = __int_as_float(0x7fffffff);
    if (flag_in_quad(c.flags, poison_flag(1))) sum_[1] = __int_as_float(0x7fffffff);
    const bool some = __any_sync(kAllLanes, sum_[0] != 0.0f || sum_[1] != 0.0f);
    this->store_softmax(c.slot);
    if (some) this->store_output(c.slot);
    __syncwarp();  // the next chunk's scores and copies go where other lanes may still read
  }

  __device__ ChunkPrefix prefix_of(const Chunk& c) const { return ChunkPrefix(d_, lane_, c.slot, c.index); }

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
      sm80::copy_async_16_once(tile + (row * Config::kRowPieces + (piece ^ (row & 7))) * 16,
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

  /// Maxima on the way through the blocks of a chunk.
  struct Maxima {
    float of_block[2], of_chunk[2];  ///< of own rows and the lane's keys
    std::uint32_t flags = 0;
    int block_end;  ///< of the current block
  };

  __device__ void score_blocks(Chunk& c) {
    const int bc = p_.skip_bc;
    c.first_block = c.begin / bc;
    c.blocks = 0;
    Maxima maxima;
    maxima.block_end = (c.first_block + 1) * bc;
    for (int half = 0; half < 2; ++half) maxima.of_block[half] = maxima.of_chunk[half] = kNegativeInfinity<float>;
    const int first = max(c.first_block * bc, c.visible.begin) / Config::kUnit * Config::kUnit;
    const int end = min(((c.end - 1) / bc + 1) * bc, c.visible.end);
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
            if (key < first || key >= end) continue;
            take_unit(c, maxima, x[unit], key);
            if (key + Config::kUnit >= min(maxima.block_end, end)) close_block(c, maxima);
          }
        });
    const float of_quad[2] = {over_quad(maxima.of_chunk[0]), over_quad(maxima.of_chunk[1])};
    c.maximum = by_row(of_quad);
    c.flags = maxima.flags;
  }

  /// Takes in the scores of own rows against keys `key` + (lane % 4) * 2 + {0, 1}.
  __device__ void take_unit(const Chunk& c, Maxima& maxima, const float (&x)[4], int key) const {
    const bool own = key >= c.first_key && key < c.first_key + Config::kChunkKeys;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float first = x[2 * half], second = x[2 * half + 1];
      const bool nan = first != first || second != second;
      const float largest = fmaxf(first, second);
      maxima.of_block[half] = fmaxf(maxima.of_block[half], largest);
      maxima.flags |= nan ? nan_flag(half) : 0u;
      if (!own) continue;
      maxima.of_chunk[half] = fmaxf(maxima.of_chunk[half], largest);
      maxima.flags |= nan || largest == -kNegativeInfinity<float> ? poison_flag(half) : 0u;
      if (own_row(half) >= d_.rows) continue;
      float* target = c.scores + own_row(half) * Config::kScorePitch + (key - c.first_key) + lane_ % 4 * 2;
      *reinterpret_cast<float2*>(target) = {first, second};
    }
  }

  /// Stores the maxima of the current block: NaN for a row that sees none of its keys, -inf for one that sees NaN
  /// alone.
  __device__ void close_block(Chunk& c, Maxima& maxima) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float largest = over_quad(maxima.of_block[half]);
      const bool sees = flag_in_quad(maxima.flags, nan_flag(half)) || largest != kNegativeInfinity<float>;
      if (lane_ % 4 == 0 && own_row(half) < d_.rows) {
        c.block_maxima[own_row(half) * Config::kMaxBlocks + c.blocks] = sees ? largest : __int_as_float(0x7fffffff);
      }
      maxima.of_block[half] = kNegativeInfinity<float>;
    }
    maxima.flags &= ~(nan_flag(0) | nan_flag(1));
    ++c.blocks;
    maxima.block_end += p_.skip_bc;
  }

  [[nodiscard]] static __device__ float over_quad(float value) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, 1));
    return fmaxf(value, __shfl_xor_sync(kAllLanes, value, 2));
  }

  /// The lane saw NaN in the current block; it saw NaN or +inf in the chunk.
  [[nodiscard]] static __device__ constexpr std::uint32_t nan_flag(int half) { return 1u << half; }
  [[nodiscard]] static __device__ constexpr std::uint32_t poison_flag(int half) { return 4u << half; }

  [[nodiscard]] __device__ bool flag_in_quad(std::uint32_t flags, std::uint32_t flag) const {
    const unsigned lanes = __ballot_sync(kAllLanes, (flags & flag) != 0);
    return (lanes >> (lane_ & ~3) & 0xFu) != 0;
  }

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
    const auto row = this->query_row(lane_);
    const int block = floor_div(row.token + sequence_.k_len - sequence_.q_len, p_.skip_br);
    const int first = floor_div(sequence_.k_len - sequence_.q_len, p_.skip_br);
    return __match_any_sync(kAllLanes, has_row() ? (block - first) * p_.heads + row.head : -1 - lane_);
  }

  /// Of the lane's row and its peers; bit b: the chunk's b-th block.
  struct Decision {
    unsigned peers;
    std::uint32_t seen = 0;      ///< by one of them
    std::uint32_t attended = 0;  ///< by them
  };

  __device__ Decision decide(const Chunk& c) const {
    const float log_lambda = log_lambda_of(p_, c.batch);
    float running = kNegativeInfinity<float>;
    if (log_lambda != kNegativeInfinity<float>) {
      const ChunkPrefix prefix = prefix_of(c);
      running = prefix.before();
      prefix.publish_prefix(fmaxf(running, c.maximum));
    }
    Decision decision{.peers = peers()};
    for (int b = 0; b < c.blocks; ++b) {
      const float largest = has_row() ? c.block_maxima[lane_ * Config::kMaxBlocks + b] : __int_as_float(0x7fffffff);
      const bool sees = largest == largest;
      running = fmaxf(running, largest);
      const bool wants = sees && !row_votes_skip(largest, running, p_.scale, log_lambda);
      decision.seen |= static_cast<std::uint32_t>((__ballot_sync(kAllLanes, sees) & decision.peers) != 0) << b;
      decision.attended |= static_cast<std::uint32_t>((__ballot_sync(kAllLanes, wants) & decision.peers) != 0) << b;
    }
    return decision;
  }

  /// Of the chunk's units, those in the blocks.
  [[nodiscard]] __device__ std::uint32_t units_of(const Chunk& c, std::uint32_t blocks) const {
    std::uint32_t units = 0;
    int block = 0, block_end = (c.first_block + 1) * p_.skip_bc;
    for (int unit = (c.begin - c.first_key) / Config::kUnit; unit < Config::kMaxBlocks; ++unit) {
      const int key = c.first_key + unit * Config::kUnit;
      if (key >= c.end) break;
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
  __device__ void attend_units(const Chunk& c, std::uint32_t units) {
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
          load_rows(slot, this->v_, p_.v_strides.row, c.first_key + unit * Config::kUnit, wanted >> unit & 3u);
        },
        [&](std::uint32_t tile, int) {
          const int unit = pop_lowest(to_use);
          float x[2][4];
          read_scores(c, x, unit, own_units);
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
  __device__ void read_scores(const Chunk& c, float (&x)[2][4], int unit, const std::uint32_t (&own_units)[2]) const {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float2 pair = {kNegativeInfinity<float>, kNegativeInfinity<float>};
        if (own_row(half) < d_.rows && (own_units[half] >> (unit + e) & 1) != 0) {
          pair = *reinterpret_cast<const float2*>(c.scores + own_row(half) * Config::kScorePitch +
                                                  (unit + e) * Config::kUnit + lane_ % 4 * 2);
        }
        x[e][2 * half] = pair.x;
        x[e][2 * half + 1] = pair.y;
      }
    }
  }

  // --- mask and statistics -------------------------------------------------------------------------------------------

  /// `units` are those of the lane's row that it attends to.
  __device__ void record(const Chunk& c, const Decision& decision, std::uint32_t units) const {
    unsigned long long pairs_visible = 0, pairs_attended = 0;
    const auto [token, head] = this->query_row(lane_);
    const int first_unit = (c.begin - c.first_key) / Config::kUnit;
    for (int unit = first_unit; has_row() && c.first_key + unit * Config::kUnit < c.end; ++unit) {
      std::uint32_t visible = 0;
      for (int i = 0; i < Config::kUnit; ++i) {
        const float x = c.scores[lane_ * Config::kScorePitch + unit * Config::kUnit + i];
        visible |= static_cast<std::uint32_t>(x != kNegativeInfinity<float>) << i;
      }
      const std::uint32_t attended = (units >> unit & 1) != 0 ? visible : 0u;
      pairs_visible += __popc(visible);
      pairs_attended += __popc(attended);
      if (p_.mask != nullptr) {
        const std::int64_t row = std::int64_t{sequence_.q_start} + token;
        p_.mask[(row * p_.heads + head) * p_.mask_bytes + c.first_key / Config::kUnit + unit] =
            static_cast<std::uint8_t>(attended);
      }
    }
    if (p_.stats == nullptr || !has_row()) return;
    auto* stats = reinterpret_cast<unsigned long long*>(p_.stats) + (std::int64_t{c.batch} * p_.heads + head) * 4;
    atomicAdd(stats + 2, pairs_visible);
    atomicAdd(stats + 3, pairs_attended);
    if (lane_ != __ffs(static_cast<int>(decision.peers)) - 1) return;
    // A block that began in the chunk before was counted there.
    const bool counted_before = max(c.first_block * p_.skip_bc, c.visible.begin) < c.begin;
    const std::uint32_t counted = decision.seen & (counted_before ? ~1u : ~0u);
    atomicAdd(stats, static_cast<unsigned long long>(__popc(counted)));
    atomicAdd(stats + 1, static_cast<unsigned long long>(__popc(counted & ~decision.attended)));
  }

  float* buffers_;  ///< of two chunks
};

template <class Config>
__global__ void __launch_bounds__(kWarp) skip_keys(const __grid_constant__ DecodeParams d) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int lane = static_cast<int>(threadIdx.x);
  const AttentionParams& p = d.attention;
  allow_next_kernel();
  if (blockIdx.x == 0) ChunkCursor(p, lane, kChunkKeysLog2).write_offsets(d.chunk_offsets);
  SkippingAttention<Config>(d, lane, shared).run();
}

template <typename Element, int kHeadDim>
void launch_skip_keys(const DecodeParams& params, cudaStream_t stream) {
  using Config = SkipConfig<Element, kHeadDim>;
  const int bytes = Config::shared_bytes(params.rows);
  int device = 0, processors = 0, blocks_per_processor = 0;
  MODELOPT_CUDA_CHECK(cudaGetDevice(&device), "current device");
  MODELOPT_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
                      "multiprocessors of GPU ", device);
  constexpr int kMostBytes = Config::shared_bytes(kRowBlock);  // the same for all calls: other threads may launch too
  MODELOPT_CUDA_CHECK(cudaFuncSetAttribute(skip_keys<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostBytes),
                      "asking for ", kMostBytes, " bytes of shared memory a block");
  MODELOPT_CUDA_CHECK(cudaFuncSetAttribute(skip_keys<Config>, cudaFuncAttributePreferredSharedMemoryCarveout,
                                           cudaSharedmemCarveoutMaxShared),
                      "asking for all shared memory");
  MODELOPT_CUDA_CHECK(
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_per_processor, skip_keys<Config>, kWarp, bytes),
      "occupancy of skip_keys");
  const std::int64_t work = std::int64_t{params.capacity} * params.parts;
  const std::int64_t resident = std::int64_t{processors} * blocks_per_processor;
  const auto blocks = static_cast<unsigned>(std::clamp<std::int64_t>(work, 1, resident));  // one writes the offsets
  skip_keys<Config><<<blocks, kWarp, bytes, stream>>>(params);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching skip_keys with ", blocks, " blocks, head_dim ",
                      params.attention.head_dim);
}

}  // namespace modelopt::kernels::cuda::decode
