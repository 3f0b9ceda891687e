// Fused attention forward with skip-softmax for Hopper: a key block whose scores lie far below their rows' running
// maxima is left out inside the kernel, in one pass: no exponentials, no copy of V, no P·V.
//
// CTA         one query block of 128 rows: 2 consumer warpgroups of 64 rows and one producer warpgroup, of which a warp
//             loads K, one loads V (skip_producers.cuh), one takes tile numbers and loads Q (producers.cuh). A key tile
//             is a key block of 128 keys. Grid = SMs; query blocks come longest first from a counter, so that what
//             skipping makes uneven is levelled.
// Registers   consumers 240 (head_dim 128: O 64, two tiles of scores 64 each), producers 24.
// Shared      2 stages of Q, 3 of K, 2 of V, 128 rows or keys each: 224 KiB for head_dim 128.
// Vote        Each warp votes with the maxima of its 16 rows, as soon as it has the scores. A warp with a row that
//             objects knows the outcome; one without waits for the other seven. V is copied when the first warp
//             objects. Votes lie in a ring of slots, votes_full per slot and warpgroup; K is not loaded further ahead
//             than the loader of V has read (votes_read), so no slot is written over.
// Pipeline    Scores have two buffers. While P·V of key tile j - 1 runs, warps find the maxima of tile j and vote; while
//             Q·K of tile j + 1 runs, they take the exponentials of tile j, whose weights take the place of its scores.
//             Key tiles of successive query blocks are one stream; the last P·V of a block comes at once, and O is
//             stored under Q·K of the next.
// Barriers    as in flash_forward.cuh, but Q has two stages (q_full/q_empty count the whole block; q_empty also the
//             loader of V, which has read the slot), and there are no turns.
#pragma once

#include "kernels/cuda/sm90/flash_forward.cuh"
#include "kernels/cuda/sm90/skip/skip_producers.cuh"
#include "kernels/cuda/sm90/skip/skip_traits.h"
#include "kernels/skip.h"

namespace modelopt::kernels::cuda::sm90 {

/// Largest score of each of the two rows in the tile; NaN if one is NaN.
template <int kScores>
__device__ __forceinline__ void tile_maxima_or_nan(const float (&s)[kScores], float (&maxima)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float m[2] = {s[2 * h], s[2 * h + 1]};  // two chains: half the latency
#pragma unroll
    for (int i = 1; i < kScores / 4; ++i) {
      m[0] = max_nan(m[0], s[4 * i + 2 * h]);
      m[1] = max_nan(m[1], s[4 * i + 2 * h + 1]);
    }
    m[0] = max_nan(m[0], m[1]);
    m[0] = max_nan(m[0], __shfl_xor_sync(kFullWarp, m[0], 1));
    maxima[h] = max_nan(m[0], __shfl_xor_sync(kFullWarp, m[0], 2));
  }
}

template <typename Traits>
struct SkipConsumer {
  static constexpr int kScores = Traits::kScores;
  static constexpr float kNoReference = std::numeric_limits<float>::infinity();
  static constexpr float kLargestOffset = 1 << 20;

  SharedMemory<Traits>& shared;
  const SkipArguments& args;
  const int warpgroup;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int quad_lane = thread % 4;
  const int row = thread / 32 * 16 + thread % 32 / 4;  ///< of its block of 64; the other one is row + 8

  /// The query block whose scores are worked on, and where.
  struct Place {
    int n = 0;  ///< number of the query block in this CTA
    int tile = 0, begin = 0, end = 0;
    int clean_begin = 0, clean_end = 0;  ///< key tiles that need no mask
    float log_lambda = 0.0f;
    bool outside[2] = {false, false};  ///< the thread's rows are not in the call: they have no vote
  };

  struct State {
    RowState rows;                  ///< of what is attended; shift: kNoReference before that
    float offset[2];                ///< shift * scale_log2, 0 without a reference
    bool large;                     ///< some row of the warp has a larger offset than kLargestOffset
    float running_max[2];           ///< of all key blocks so far
    Ring<Traits::kKeyStages> k{0};  ///< to be waited for next
    Ring<Traits::kValueStages> v{0};
    Ring<kVoteSlots> votes{0};
    bool pending = false;  ///< the other buffer holds weights whose P·V is to be issued
    PairCounts counts;

    __device__ __forceinline__ void start() {
      rows = {{kNoReference, kNoReference}, {0.0f, 0.0f}};
      offset[0] = offset[1] = 0.0f;
      large = false;
      running_max[0] = running_max[1] = kNegativeInfinity<float>;
    }
  };

  __device__ __forceinline__ void release(std::uint64_t* empty) const {
    if (thread == 0) barrier_arrive(empty);
  }

  /// Waits for the n-th query block of this CTA; false if there is none.
  __device__ __forceinline__ bool arrives(int n) const {
    barrier_wait(&shared.slot_full[n % kSlots], n / kSlots & 1);
    if (uniform(shared.slots[n % kSlots].tile) < 0) return false;
    barrier_wait(&shared.q_full[n % Traits::kQueryStages], n / Traits::kQueryStages & 1);
    return true;
  }

  __device__ __forceinline__ void open(Place& place) const {
    const TileSlot& slot = shared.slots[place.n % kSlots];
    const int position = uniform(slot.position) + warpgroup * kBlockRows;
    const KeyRange range = key_range_of<Traits>(args.params, slot, position);
    place.tile = place.begin = range.begin;
    place.end = range.cta_end;
    place.clean_begin = range.clean0;
    place.clean_end = range.clean_end0;
    place.log_lambda = args.log_lambda[slot.map / args.params.kv_heads];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int at = position + row + 8 * h;
      place.outside[h] = at < slot.rows.first || at >= slot.rows.k_len;
    }
  }

  /// Q·K of the n-th query block and the next key tile.
  __device__ __forceinline__ void issue_next_scores(float (&s)[kScores], int n, State& state) const {
    const std::uint8_t* q = shared.q[n % Traits::kQueryStages] + warpgroup * kBlockRows * 128;
    wgmma_fence();
    issue_scores<Traits>(s, matrix_descriptor(q, 16), shared.k[state.k.stage]);
    wgmma_commit();
    state.k.advance();
  }

  /// O += P V; `weights`: packed, in the first half.
  __device__ __forceinline__ void issue_pending_values(float (&o)[Traits::kOutputs], const float (&weights)[kScores],
                                                       State& state) const {
    std::uint32_t p[kScores / 2];
#pragma unroll
    for (int i = 0; i < kScores / 2; ++i) p[i] = __float_as_uint(weights[i]);
    barrier_wait(&shared.v_full[state.v.stage], state.v.parity);
    wgmma_fence();
    issue_values<Traits>(o, p, nullptr, shared.v[state.v.stage]);
    wgmma_commit();
  }

  __device__ __forceinline__ void finish_values(float (&o)[Traits::kOutputs], State& state) const {
    wgmma_wait<0>();
    wgmma_results(o);
    release(&shared.v_empty[state.v.stage]);
    state.v.advance();
  }

  __device__ __forceinline__ void hide(float (&s)[kScores], const Place& place) const {
    const AttentionParams& p = args.params;
    const TileSlot& slot = shared.slots[place.n % kSlots];
    const int position = slot.position + warpgroup * kBlockRows + row;
    const int offset = place.tile * Traits::kKeys + quad_lane * KeyLayout<Traits>::kPerThread;
    const RowLimits limits[2] = {limits_of(p, slot.rows, position, offset),
                                 limits_of(p, slot.rows, position + 8, offset)};
    if (p.sliding_window > 0) {
      hide_keys<Traits, true>(s, limits);
    } else {
      hide_keys<Traits, false>(s, limits);
    }
  }

  /// Masks the scores, takes their maxima into the running ones, and votes; whether the warp is for skipping the block.
  /// `raw` gets the maxima of the thread's rows, NaN where a score is.
  __device__ __forceinline__ bool vote(float (&s)[kScores], float (&raw)[2], const Place& place, State& state) const {
    if (place.tile < place.clean_begin || place.tile >= place.clean_end) hide(s, place);
    tile_maxima_or_nan(s, raw);
    float maxima[2] = {raw[0], raw[1]};
    const auto votes = [&](int h) {
      const bool sees = raw[h] != kNegativeInfinity<float>;  // a NaN is seen
      return place.outside[h] || !sees ||
             row_votes_skip(maxima[h], fmaxf(maxima[h], state.running_max[h]), args.params.scale, place.log_lambda);
    };
    bool skip = __all_sync(kFullWarp, votes(0) && votes(1));
    if (!skip && __any_sync(kFullWarp, isnan(raw[0]) || isnan(raw[1]))) {  // their other scores decide
      tile_maxima(s, maxima);
      skip = __all_sync(kFullWarp, votes(0) && votes(1));
    }
    state.running_max[0] = fmaxf(maxima[0], state.running_max[0]);
    state.running_max[1] = fmaxf(maxima[1], state.running_max[1]);
    if (thread % 32 == 0) {
      auto* bytes = reinterpret_cast<std::uint8_t*>(&shared.votes[state.votes.stage][warpgroup]);
      bytes[thread / 32] = skip ? 1 : 0;
      barrier_arrive(&shared.votes_full[state.votes.stage][warpgroup]);
    }
    return skip;
  }

  __device__ __forceinline__ bool warpgroup_skips(int of_warpgroup, const State& state) const {
    barrier_wait(&shared.votes_full[state.votes.stage][of_warpgroup], state.votes.parity);
    const auto votes = static_cast<std::uint32_t>(uniform(
        static_cast<int>(*static_cast<volatile std::uint32_t*>(&shared.votes[state.votes.stage][of_warpgroup]))));
    return votes == kAllSkip;
  }

  /// Moves the references where the running maximum is more than 2^kSlack above.
  __device__ __forceinline__ void raise(float (&o)[Traits::kOutputs], State& state) const {
    float growth[2];
    bool up[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      growth[h] = (state.running_max[h] + state.rows.shift[h]) * args.scale_log2;
      up[h] = growth[h] > static_cast<float>(kSlack);  // the first time by infinity
    }
    if (!__any_sync(kFullWarp, up[0] || up[1])) return;
    bool large = false;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (up[h]) {
        state.rows.shift[h] = -state.running_max[h];
        state.offset[h] = state.rows.shift[h] * args.scale_log2;
      }
      lower_row(o, state.rows, h, up[h] ? exp2_approx(-growth[h]) : 1.0f);
      large = large || is_large(state.offset[h]);
    }
    state.large = __any_sync(kFullWarp, large);
  }

  __device__ static __forceinline__ bool is_large(float offset) { return !(fabsf(offset) <= kLargestOffset); }

  /// The weights of a tile take the place of its scores: packed, in the first half. The product of reference and scale
  /// is rounded before a score's is added, which all weights of the row share; where it is so large that the rounding
  /// could matter, the difference is taken before the scale.
  __device__ __forceinline__ void take_weights(float (&s)[kScores], State& state) const {
    float offset[2] = {state.offset[0], state.offset[1]};
    if (state.large) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const bool large = is_large(offset[h]);
        const float shift = large ? state.rows.shift[h] : 0.0f;
        if (large) offset[h] = 0.0f;
#pragma unroll
        for (int i = 0; i < kScores / 4; ++i) {
          s[4 * i + 2 * h] += shift;
          s[4 * i + 2 * h + 1] += shift;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kScores / 2; ++i) {
      const int h = i & 1;
      const float p0 = exp2_approx(fmaf(s[2 * i], args.scale_log2, offset[h]));
      const float p1 = exp2_approx(fmaf(s[2 * i + 1], args.scale_log2, offset[h]));
      state.rows.sum[h] += p0 + p1;
      s[i] = __uint_as_float(pack<typename Traits::Element>(p0, p1));
    }
  }

  __device__ __forceinline__ void record(const float (&s)[kScores], const Place& place, bool attended,
                                         State& state) const {
    const TileSlot& slot = shared.slots[place.n % kSlots];
    const int index = slot.map / args.params.kv_heads;
    const TileBits visible = finite_bits<Traits>(s);
    record_tile<Traits>(args, slot.rows, index, slot.head, slot.position + warpgroup * kBlockRows + row, place.tile,
                        quad_lane, visible, attended ? visible : TileBits{}, state.counts);
    if (attended && thread == 0 && args.params.stats != nullptr) {
      const int offset = args.params.q_start[index] - slot.rows.q_base;
      const std::int64_t block = block_index(args.visible_blocks, args.params, index, slot.head, offset, slot.position,
                                             place.tile * Traits::kKeys);
      args.visible_blocks.attended[block] = 1;
    }
    if (place.tile + 1 == place.end) {
      add_counts(args.params, index, slot.head, state.counts);
      state.counts = PairCounts();
    }
  }

  /// Stores O of the n-th query block.
  __device__ __forceinline__ void store(const float (&o)[Traits::kOutputs], const RowState& rows, int n) const {
    TileSlot& slot = shared.slots[n % kSlots];
    Consumer<Traits>{shared, args, warpgroup}.store(o, rows, slot.position + warpgroup * kBlockRows, slot.head,
                                                    slot.rows, slot);
  }

  /// One key tile: its scores are on their way into `s`; `other` holds weights if P·V of the tile before is pending,
  /// and gets the next tile's scores. False at the end of all.
  __device__ __forceinline__ bool step(float (&s)[kScores], float (&other)[kScores], float (&o)[Traits::kOutputs],
                                       Place& place, State& state) const {
    const bool last = place.tile + 1 == place.end;
    wgmma_wait<0>();
    wgmma_results(s);
    release(&shared.k_empty[state.k.stage == 0 ? Traits::kKeyStages - 1 : state.k.stage - 1]);
    if (last) release(&shared.q_empty[place.n % Traits::kQueryStages]);
    const int next_n = place.n + last;
    const bool more = !last || arrives(next_n);
    float raw[2];
    bool own_skip;
    if (state.pending) {
      issue_pending_values(o, other, state);
      own_skip = vote(s, raw, place, state);
      if (more) barrier_wait(&shared.k_full[state.k.stage], state.k.parity);
      finish_values(o, state);
      issue_next_scores(other, next_n, state);
    } else {
      own_skip = vote(s, raw, place, state);
      if (more) barrier_wait(&shared.k_full[state.k.stage], state.k.parity);
      issue_next_scores(other, next_n, state);
    }
    const bool skip = own_skip && warpgroup_skips(warpgroup, state) && warpgroup_skips(1 - warpgroup, state);
    state.votes.advance();
    if constexpr (Traits::kRecords) record(s, place, !skip, state);
    if (skip) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if (isnan(raw[h])) state.rows.sum[h] = kNaN;  // a row that sees a NaN is NaN, whatever is skipped
      }
    } else {
      raise(o, state);
      take_weights(s, state);
    }
    state.pending = !skip && !last;
    ++place.tile;
    if (last) {
      if (!skip) {
        issue_pending_values(o, s, state);
        finish_values(o, state);
      }
      store(o, state.rows, place.n);
      state.start();
#pragma unroll
      for (int i = 0; i < Traits::kOutputs; ++i) o[i] = 0.0f;
      ++place.n;
      if (more) open(place);
    }
    return more;
  }

  /// After the last key tile, scores of no tile are on their way: the steps are all alike.
  __device__ __forceinline__ void drain(float (&s)[kScores]) const {
    wgmma_wait<0>();
    wgmma_results(s);
  }

  __device__ void run() const {
    float o[Traits::kOutputs];
    float s0[kScores], s1[kScores];
    Place place;
    State state;
    if (!arrives(0)) return;
    open(place);
    state.start();
#pragma unroll
    for (int i = 0; i < Traits::kOutputs; ++i) o[i] = 0.0f;
    barrier_wait(&shared.k_full[0], 0);
    issue_next_scores(s0, 0, state);
#pragma unroll 1
    for (;;) {
      if (!step(s0, s1, o, place, state)) return drain(s1);
      if (!step(s1, s0, o, place, state)) return drain(s0);
    }
  }
};

template <typename Traits>
__global__ void __launch_bounds__(Traits::kThreads, 1)
    skip_forward(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ SkipArguments args) {
  extern __shared__ std::uint8_t raw[];
  auto& shared =
      *reinterpret_cast<SharedMemory<Traits>*>((reinterpret_cast<std::uintptr_t>(raw) + 1023) & ~std::uintptr_t{1023});
  if (threadIdx.x == 0) {
    for (int i = 0; i < Traits::kQueryStages; ++i) {
      barrier_init(&shared.q_full[i], 1);
      barrier_init(&shared.q_empty[i], Traits::kWarpgroups + 1);
    }
    for (int i = 0; i < Traits::kKeyStages; ++i) {
      barrier_init(&shared.k_full[i], 1);
      barrier_init(&shared.k_empty[i], Traits::kWarpgroups);
    }
    for (int i = 0; i < Traits::kValueStages; ++i) {
      barrier_init(&shared.v_full[i], 1);
      barrier_init(&shared.v_empty[i], Traits::kWarpgroups);
    }
    for (auto& barrier : shared.slot_full) barrier_init(&barrier, 1);
    for (int i = 0; i < kVoteSlots; ++i) {
      for (auto& barrier : shared.votes_full[i]) barrier_init(&barrier, 4);
      barrier_init(&shared.votes_read[i], 1);
    }
    barrier_init_fence();
  }
  __syncthreads();
  const int warpgroup = __shfl_sync(kFullWarp, static_cast<int>(threadIdx.x) / 128, 0);
  if (warpgroup == 0) {
    registers_shrink<Traits::kProducerRegisters>();
    const int warp = static_cast<int>(threadIdx.x) / 32;
    if (threadIdx.x % 32 != 0) return;
    wait_for_kernel_before();
    const SkipProducer<Traits> producer{shared, args};
    if (warp == 0) {
      producer.load_keys();
    } else if (warp == 1) {
      producer.load_values();
    } else if (warp == 2) {
      producer.load_queries(&q_map);
    }
  } else {
    registers_grow<Traits::kConsumerRegisters>();
    wait_for_kernel_before();
    SkipConsumer<Traits>{shared, args, warpgroup - 1}.run();
  }
}

}  // namespace modelopt::kernels::cuda::sm90
