// Fused attention forward with skip-softmax for Hopper: a key block whose scores lie far below their rows' running
// maxima is left out inside the kernel, in one pass: no exponentials, no copy of V, no P·V.
//
// CTA         one query block of 128 rows: 2 consumer warpgroups of 64 rows and one producer warpgroup, of which a warp
//             loads K, one loads V (skip_producers.cuh), one takes tile numbers and loads Q (producers.cuh). A key tile
//             is a key block of 128 keys. Grid = SMs; query blocks come longest first from a counter, so that what
//             skipping makes uneven is levelled.
// Registers   consumers 240 (O 64, two tiles of scores 64 each, for head_dim 128), producers 24: what 168 for each of the 384 threads are.
// Shared      Q 128 rows, 3 tiles each of K and V: 224 KiB for head_dim 128.
// Vote        Each warp votes with the maxima of its 16 rows, as soon as it has the scores. A warp with a row that
//             objects knows the outcome; one without waits for the other seven. V is copied when the first warp objects.
//             Votes lie in a ring of slots, votes_full per slot and warpgroup; K is not loaded further ahead than the
//             loader of V has read (votes_read), so no slot is written over.
// Pipeline    Scores have two buffers. While P·V of key tile j - 1 runs, warps find the maxima of tile j and vote; while
//             Q·K of tile j + 1 runs, they take the exponentials of tile j, whose weights take the place of its scores.
//             Without P·V of tile j - 1 (skipped) Q·K of tile j + 1 is issued first. Key tiles of successive query
//             blocks are one stream: O is stored under Q·K of the next block's second tile.
// Barriers    as in flash_forward.cuh; q_empty[0] also counts the loader of V, which has read the slot.
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
    float m = max_nan(s[2 * h], s[2 * h + 1]);
#pragma unroll
    for (int i = 1; i < kScores / 4; ++i) m = max_nan(m, max_nan(s[4 * i + 2 * h], s[4 * i + 2 * h + 1]));
    m = max_nan(m, __shfl_xor_sync(kFullWarp, m, 1));
    maxima[h] = max_nan(m, __shfl_xor_sync(kFullWarp, m, 2));
  }
}

template <typename Traits>
struct SkipConsumer {
  static constexpr int kScores = Traits::kScores;

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
    RowState rows;  ///< of O: until it is stored, that of the query block before
    float running_max[2];
    Ring<Traits::kKeyStages> k{0};  ///< to be waited for next
    Ring<Traits::kValueStages> v{0};
    Ring<kVoteSlots> votes{0};
    bool pending = false;  ///< the other buffer holds weights whose P·V is to be issued
    PairCounts counts;
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

  /// `weights`: packed, in the first half.
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

  /// Takes the maxima of the thread's rows into the running ones; whether its rows vote for skipping the block. `raw`
  /// are the maxima with NaN where a score is, `maxima` get those without.
  __device__ __forceinline__ bool vote(const float (&s)[kScores], const float (&raw)[2], float (&maxima)[2],
                                       const Place& place, State& state) const {
    const auto votes = [&](int h) {
      const bool sees = raw[h] != kNegativeInfinity<float>;  // a NaN is seen
      return place.outside[h] || !sees ||
             row_votes_skip(maxima[h], fmaxf(maxima[h], state.running_max[h]), args.params.scale, place.log_lambda);
    };
    maxima[0] = raw[0];
    maxima[1] = raw[1];
    bool all = __all_sync(kFullWarp, votes(0) && votes(1));
    if (!all && __any_sync(kFullWarp, isnan(raw[0]) || isnan(raw[1]))) {  // they objected; their other scores decide
      tile_maxima(s, maxima);
      all = __all_sync(kFullWarp, votes(0) && votes(1));
    }
    state.running_max[0] = fmaxf(maxima[0], state.running_max[0]);
    state.running_max[1] = fmaxf(maxima[1], state.running_max[1]);
    return all;
  }

  __device__ __forceinline__ void cast_vote(bool skip, const State& state) const {
    if (thread % 32 == 0) {
      auto* bytes = reinterpret_cast<std::uint8_t*>(&shared.votes[state.votes.stage][warpgroup]);
      bytes[thread / 32] = skip ? 1 : 0;
      barrier_arrive(&shared.votes_full[state.votes.stage][warpgroup]);
    }
  }

  __device__ __forceinline__ bool warpgroup_skips(int of_warpgroup, const State& state) const {
    barrier_wait(&shared.votes_full[state.votes.stage][of_warpgroup], state.votes.parity);
    const auto votes = static_cast<std::uint32_t>(uniform(static_cast<int>(
        *static_cast<volatile std::uint32_t*>(&shared.votes[state.votes.stage][of_warpgroup]))));
    return votes == kAllSkip;
  }

  /// Moves the reference where this tile has a score more than 2^kSlack above it. `before` are the running maxima
  /// without the tile.
  __device__ __forceinline__ void raise(const float (&maxima)[2], const float (&before)[2], float (&o)[Traits::kOutputs],
                                        RowState& rows) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const bool first = before[h] == kNegativeInfinity<float>;
      const float growth = (maxima[h] + rows.shift[h]) * args.scale_log2;
      const bool up = maxima[h] != kNegativeInfinity<float> && (first || growth > static_cast<float>(kSlack));
      if (!__any_sync(kFullWarp, up)) continue;
      const float factor = up && !first ? exp2_approx(-growth) : 1.0f;
      if (up) rows.shift[h] = -maxima[h];
      lower_row(o, rows, h, factor);
    }
  }

  __device__ __forceinline__ void take_weights(float (&s)[kScores], RowState& rows) const {
    Weights<Traits> weights;
    dense_softmax<Traits>(s, args.scale_log2, rows, weights);
#pragma unroll
    for (int i = 0; i < kScores / 2; ++i) s[i] = __uint_as_float(weights.kept[i]);
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
    if (more) barrier_wait(&shared.k_full[state.k.stage], state.k.parity);

    float raw[2], maxima[2], before[2];
    bool own_skip;
    if (state.pending) {
      issue_pending_values(o, other, state);
      own_skip = examine(s, raw, maxima, before, place, state);
      finish_values(o, state);
      issue_next_scores(other, next_n, state);
    } else {
      issue_next_scores(other, next_n, state);
      own_skip = examine(s, raw, maxima, before, place, state);
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
      raise(maxima, before, o, state.rows);
      take_weights(s, state.rows);
    }
    state.pending = !skip && !last;
    ++place.tile;
    if (last) {
      if (!skip) {
        issue_pending_values(o, s, state);
        finish_values(o, state);
      }
      store(o, state.rows, place.n);
      state.rows = RowState();
#pragma unroll
      for (int i = 0; i < Traits::kOutputs; ++i) o[i] = 0.0f;
      ++place.n;
      if (more) open(place);
    }
    return more;
  }

  /// Masks the scores, takes their maxima and votes.
  __device__ __forceinline__ bool examine(float (&s)[kScores], float (&raw)[2], float (&maxima)[2], float (&before)[2],
                                          const Place& place, State& state) const {
    if (place.tile < place.clean_begin || place.tile >= place.clean_end) hide(s, place);
    if (place.tile == place.begin) state.running_max[0] = state.running_max[1] = kNegativeInfinity<float>;
    before[0] = state.running_max[0];
    before[1] = state.running_max[1];
    tile_maxima_or_nan(s, raw);
    const bool skip = vote(s, raw, maxima, place, state);
    cast_vote(skip, state);
    return skip;
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
  auto& shared = *reinterpret_cast<SharedMemory<Traits>*>((reinterpret_cast<std::uintptr_t>(raw) + 1023) &
                                                              ~std::uintptr_t{1023});
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
