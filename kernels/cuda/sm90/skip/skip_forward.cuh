// Fused attention forward with skip-softmax for Hopper: a key block whose scores lie far below their rows' running
// maxima is left out inside the kernel, in one pass: no exponentials, no copy of V, no P·V.
//
// CTA         one query block of 128 rows: 2 consumer warpgroups of 64 rows and one producer warpgroup, of which a warp
//             loads K, one loads V and one takes tile numbers and loads Q (skip_producers.cuh). A key tile
//             is a key block of 128 keys. Grid = SMs; query blocks come longest first from a counter, so that what
//             skipping makes uneven is levelled.
// Registers   consumers 240 (head_dim 128: O 64, two tiles of scores 64 each), producers 24.
// Shared      2 stages of Q, 3 of K, 2 of V, 128 rows or keys each: 224 KiB for head_dim 128.
// Vote        Each warp votes with its scores' maxima, as soon as it has them. A warp with a row that objects knows the
//             outcome; one without waits for the other seven. V is copied when the first warpgroup objects. Votes lie
//             in a ring of slots, votes_full per slot and warpgroup; K is not loaded further ahead than the loader of V
//             has read (votes_read), so no slot is written over.
// Pipeline    Two buffers for scores, the weights of a tile taking the place of its scores, and two ways.
//             Steps: P·V of key tile j - 1 is issued, and under it tile j is voted on; then Q·K of tile j + 1, and
//             under it the exponentials of tile j are taken, or nothing if it is skipped. Q·K comes before the outcome
//             of a vote: the tensor cores do not wait for one. Key tiles of successive query blocks are one stream.
// Runs        From the start of a query block, or after kLongRun tiles attended in a row, until one is skipped: Q·K of
//             tile j + 1 and P·V of tile j are issued together, Q·K first; vote and exponentials run under P·V and the
//             products of the other warpgroup. Scores stay in one buffer, weights alternate between the halves of the
//             other.
// Turns       Named barriers 1 + w: in a run the warpgroups issue their products in turn. What is skipped is the same
//             for both, so their turns are as many.
// Barriers    as in flash_forward.cuh, but Q has two stages (q_full/q_empty count the whole block; q_empty counts
//             warps, which have stored the block before and will not read its slot again, and the loader of V, which
//             has read this block's slot).
#pragma once

#include "kernels/cuda/sm90/flash_forward.cuh"
#include "kernels/cuda/sm90/skip/skip_producers.cuh"
#include "kernels/cuda/sm90/skip/skip_traits.h"
#include "kernels/skip.h"

namespace modelopt::kernels::cuda::sm90 {

/// Largest of the thread's scores in each of its two rows; NaN if one is NaN.
template <int kScores>
__device__ __forceinline__ void thread_maxima_or_nan(const float (&s)[kScores], float (&maxima)[2]) {
  float m[4] = {s[0], s[1], s[2], s[3]};  // four chains side by side hide each other's latency
#pragma unroll
  for (int i = 4; i < kScores; ++i) m[i % 4] = max_nan(m[i % 4], s[i]);
#pragma unroll
  for (int h = 0; h < 2; ++h) maxima[h] = max_nan(m[2 * h], m[2 * h + 1]);
}

/// Largest of the row's four threads' values; NaN if one is NaN.
__device__ __forceinline__ float quad_max_or_nan(float x) {
  x = max_nan(x, __shfl_xor_sync(kFullWarp, x, 1));
  return max_nan(x, __shfl_xor_sync(kFullWarp, x, 2));
}

template <typename Traits>
struct SkipConsumer {
  static constexpr int kScores = Traits::kScores;
  static constexpr float kNoReference = std::numeric_limits<float>::infinity();
  static constexpr float kNoVote = std::numeric_limits<float>::infinity();  ///< in place of ln(lambda)
  static constexpr float kLargestOffset = 1 << 20;
  using Turn = Turns<Traits::kWarpgroups>;
  static constexpr int kLongRun = 8;  ///< so many tiles attended in a row are taken to be followed by more

  SharedMemory<Traits>& shared;
  const SkipArguments& args;
  const int warpgroup;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int quad_lane = thread % 4;
  const int row = thread / 32 * 16 + thread % 32 / 4;  ///< of its block of 64; the other one is row + 8

  /// The query block whose scores are worked on, and where.
  struct Place {
    int n = 0;  ///< number of the query block in this CTA
    int tile = 0, end = 0;
    int clean_begin = 0, clean_end = 0;  ///< key tiles that need no mask
    float log_lambda[2] = {};            ///< of the thread's rows; kNoVote where a row is not in the call
  };

  struct State {
    RowState rows;  ///< of what is attended; shift: kNoReference before that
    /// shift * scale_log2; 0 without a reference, and where that is so large that its rounding, which all weights of a
    /// row share, could matter: there the difference is taken before the scale.
    float offset[2];
    float large_shift[2];           ///< shift where offset is 0 for that reason; 0 elsewhere
    bool large;                     ///< some row of the warp has a large_shift
    float running_max[2];           ///< of all key blocks so far
    float ceiling[2];               ///< a running maximum above it moves the reference
    Ring<Traits::kKeyStages> k{0};  ///< to be waited for next
    Ring<Traits::kValueStages> v{0};
    Ring<kVoteSlots> votes{0};
    bool pending = false;  ///< the other buffer holds weights whose P·V is to be issued
    int run;               ///< tiles attended in a row; at the start of a query block as if they were many
    PairCounts counts;

    __device__ __forceinline__ void start() {
      rows = {{kNoReference, kNoReference}, {0.0f, 0.0f}};
      offset[0] = offset[1] = large_shift[0] = large_shift[1] = 0.0f;
      large = false;
      running_max[0] = running_max[1] = kNegativeInfinity<float>;
      ceiling[0] = ceiling[1] = kNegativeInfinity<float>;
      pending = false;
      run = kLongRun;
    }
  };

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
    place.tile = range.begin;
    place.end = range.cta_end;
    place.clean_begin = range.clean0;
    place.clean_end = range.clean_end0;
    const float log_lambda = args.log_lambda[slot.map / args.params.kv_heads];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int at = position + row + 8 * h;
      place.log_lambda[h] = at < slot.rows.first || at >= slot.rows.k_len ? kNoVote : log_lambda;
    }
  }

  /// Q·K of the n-th query block and the next key tile.
  __device__ __forceinline__ void issue_next_scores(float (&s)[kScores], int n, State& state) const {
    const std::uint8_t* q = shared.q[n % Traits::kQueryStages] + warpgroup * kBlockRows * 128;
    issue_scores<Traits>(s, matrix_descriptor(q, 16), shared.k[state.k.stage]);
    wgmma_commit();
    state.k.advance();
  }

  /// O += P V; `weights`: packed, in that half.
  __device__ __forceinline__ void issue_next_values(float (&o)[Traits::kOutputs], const float (&weights)[kScores],
                                                    int half, const State& state) const {
    std::uint32_t p[kScores / 2];
#pragma unroll
    for (int i = 0; i < kScores / 2; ++i) p[i] = __float_as_uint(weights[half * (kScores / 2) + i]);
    issue_values<Traits>(o, p, nullptr, shared.v[state.v.stage]);
    wgmma_commit();
  }
  __device__ __forceinline__ void wait_for_key(const State& state) const {
    barrier_wait(&shared.k_full[state.k.stage], state.k.parity);
  }
  __device__ __forceinline__ void wait_for_value(const State& state) const {
    barrier_wait(&shared.v_full[state.v.stage], state.v.parity);
  }
  __device__ __forceinline__ void release_key(const State& state) const {
    release(&shared.k_empty[state.k.stage == 0 ? Traits::kKeyStages - 1 : state.k.stage - 1], thread);
  }
  __device__ __forceinline__ void release_value(State& state) const {
    release(&shared.v_empty[state.v.stage], thread);
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

  struct Vote {
    bool skip;        ///< the warp is for skipping the block
    bool unusual;     ///< some thread of the warp has no finite maximum, or a row's reference must move
    float maxima[2];  ///< of the thread's scores of its rows; NaN where one is
  };

  /// Masks the scores, votes, and takes their maxima into the running ones. A row votes as all of its threads together:
  /// the thread with the largest score decides as the row does, and no other one objects before it.
  __device__ __forceinline__ Vote vote(float (&s)[kScores], const Place& place, State& state) const {
    if (place.tile < place.clean_begin || place.tile >= place.clean_end) [[unlikely]]
      hide(s, place);
    Vote vote;
    thread_maxima_or_nan(s, vote.maxima);
    float maxima[2] = {vote.maxima[0], vote.maxima[1]};
    const auto skips = [&](int h) {
      return row_votes_skip(maxima[h], fmaxf(maxima[h], state.running_max[h]), args.params.scale, place.log_lambda[h]);
    };
    const auto is_unusual = [&](int h) { return !isfinite(maxima[h]) || maxima[h] > state.ceiling[h]; };
    vote.skip = __all_sync(kFullWarp, skips(0) && skips(1));
    vote.unusual = __any_sync(kFullWarp, is_unusual(0) || is_unusual(1));
    if (vote.unusual) [[unlikely]] {
      // The other scores of a row that sees a NaN decide; rows that see no key or are not in the call are not asked.
      tile_maxima(s, maxima);
      const auto agrees = [&](int h) {
        const bool sees = quad_max_or_nan(vote.maxima[h]) != kNegativeInfinity<float>;  // a NaN is seen
        return place.log_lambda[h] == kNoVote || !sees || skips(h);
      };
      const bool both[2] = {agrees(0), agrees(1)};
      vote.skip = __all_sync(kFullWarp, both[0] && both[1]);
    }
    if (thread % 32 == 0) {
      auto* bytes = reinterpret_cast<std::uint8_t*>(&shared.votes[state.votes.stage][warpgroup]);
      asm volatile("st.shared.u8 [%0], %1;" ::"r"(shared_address(bytes + thread / 32)), "r"(vote.skip ? 1 : 0)
                   : "memory");
      barrier_arrive(&shared.votes_full[state.votes.stage][warpgroup]);
    }
    if (!vote.skip) {  // otherwise no row lies above its running maximum
#pragma unroll
      for (int h = 0; h < 2; ++h) state.running_max[h] = fmaxf(quad_max(maxima[h]), state.running_max[h]);
    }
    return vote;
  }

  __device__ __forceinline__ bool warpgroup_skips(int of_warpgroup, const State& state) const {
    barrier_wait(&shared.votes_full[state.votes.stage][of_warpgroup], state.votes.parity);
    const auto votes = static_cast<std::uint32_t>(uniform(
        static_cast<int>(*static_cast<volatile std::uint32_t*>(&shared.votes[state.votes.stage][of_warpgroup]))));
    return votes == kAllSkip;
  }

  /// Moves the references where the running maximum is more than 2^kSlack above. kPending: P·V is under way.
  template <bool kPending>
  __device__ __forceinline__ void raise(float (&o)[Traits::kOutputs], State& state) const {
    float growth[2];
    bool up[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      growth[h] = (state.running_max[h] + state.rows.shift[h]) * args.scale_log2;
      up[h] = growth[h] > static_cast<float>(kSlack);  // the first time by infinity
    }
    if (!__any_sync(kFullWarp, up[0] || up[1])) return;
    if constexpr (kPending) {
      wgmma_wait<0>();
      wgmma_results(o);
    }
    bool large = false;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (up[h]) {
        state.rows.shift[h] = -state.running_max[h];
        state.ceiling[h] = state.running_max[h] + static_cast<float>(kSlack) / args.scale_log2;
        state.offset[h] = state.rows.shift[h] * args.scale_log2;
        const bool is_large = !(fabsf(state.offset[h]) <= kLargestOffset);
        state.large_shift[h] = is_large ? state.rows.shift[h] : 0.0f;
        if (is_large) state.offset[h] = 0.0f;
      }
      lower_row(o, state.rows, h, up[h] ? exp2_approx(-growth[h]) : 1.0f);
      large = large || state.large_shift[h] != 0.0f;
    }
    state.large = __any_sync(kFullWarp, large);
  }

  /// The weights of a tile's scores, packed into one half of `to`, which may be `s` (the first half); adds them up.
  __device__ __forceinline__ void take_weights(float (&s)[kScores], float (&to)[kScores], int half,
                                               State& state) const {
#pragma unroll
    for (int i = 0; i < kScores / 2; ++i) {
      const float p0 = exp2_approx(fmaf(s[2 * i], args.scale_log2, state.offset[i & 1]));
      const float p1 = exp2_approx(fmaf(s[2 * i + 1], args.scale_log2, state.offset[i & 1]));
      state.rows.sum[i & 1] += p0 + p1;
      to[half * (kScores / 2) + i] = __uint_as_float(pack<typename Traits::Element>(p0, p1));
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

  /// Whether the key tile is skipped. If not, the reference is moved as far as the tile's weights need it, and its
  /// scores are ready for take_weights(). kPending: P·V is under way.
  template <bool kPending>
  __device__ __forceinline__ bool decide(const Vote& own, float (&s)[kScores], float (&o)[Traits::kOutputs],
                                         const Place& place, State& state) const {
    const bool skip = own.skip && warpgroup_skips(warpgroup, state) && warpgroup_skips(1 - warpgroup, state);
    state.votes.advance();
    if constexpr (Traits::kRecords) record(s, place, !skip, state);
    if (skip) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if (isnan(own.maxima[h])) state.rows.sum[h] = kNaN;  // a row that sees a NaN is NaN, whatever is skipped
      }
      return true;
    }
    if (own.unusual) [[unlikely]]
      raise<kPending>(o, state);
    if (state.large) [[unlikely]] {
#pragma unroll
      for (int i = 0; i < kScores; ++i) s[i] += state.large_shift[i / 2 & 1];
    }
    return false;
  }

  /// Scores of the current key tile are here: with the last one, Q is free. So is the slot of the query block before:
  /// every warp says so for itself, because one that stores that block's rows may be behind the others of its warpgroup
  /// if the current block has a single tile. False if nothing comes after it.
  __device__ __forceinline__ bool more_after(const Place& place, const State& state) const {
    if (place.tile + 1 != place.end) return true;
    if (thread % 32 == 0) barrier_arrive(&shared.q_empty[place.n % Traits::kQueryStages]);
    return arrives(place.n + 1);
  }

  /// One tile of a run: its scores are in `s`, the weights of the tile before, whose P·V is under way, in one half of
  /// `weights`. If it is attended, its own come into the other half.
  __device__ __forceinline__ bool attend(float (&s)[kScores], float (&weights)[kScores], int half,
                                         float (&o)[Traits::kOutputs], Place& place, State& state) const {
    release_key(state);
    ++place.tile;
    const bool skip = decide<true>(vote(s, place, state), s, o, place, state);
    if (!skip) take_weights(s, weights, half, state);
    wgmma_wait<0>();
    wgmma_results(o);
    release_value(state);
    return !skip;
  }

  /// Q·K of the next tile of the query block and P·V of this one.
  __device__ __forceinline__ void issue_both(float (&s)[kScores], const float (&weights)[kScores], int half,
                                             float (&o)[Traits::kOutputs], const Place& place, State& state) const {
    wait_for_key(state);
    Turn::take(warpgroup);
    wgmma_fence();
    issue_next_scores(s, place.n, state);
    wait_for_value(state);
    issue_next_values(o, weights, half, state);
    Turn::pass(warpgroup);
    wgmma_wait<1>();
    wgmma_results(s);
  }

  /// The tile that a run ended with.
  struct RunEnd {
    bool skip;  ///< it is skipped
    bool last;  ///< of its query block
    int half;   ///< that has its weights, unless it is skipped
  };

  /// A run from the tile on whose scores are in `s`; P·V of the one before, with the first half of `weights`, is under
  /// way, and done in the end.
  __device__ __forceinline__ RunEnd run_on(float (&s)[kScores], float (&weights)[kScores], float (&o)[Traits::kOutputs],
                                           Place& place, State& state) const {
    RunEnd end;
    const auto ends_with = [&](int half) {
      end.half = half;
      end.skip = !attend(s, weights, half, o, place, state);
      end.last = place.tile + 1 == place.end;
      return end.skip || end.last;
    };
#pragma unroll 1
    for (;;) {
      if (ends_with(1)) return end;
      issue_both(s, weights, 1, o, place, state);
      if (ends_with(0)) return end;
      issue_both(s, weights, 0, o, place, state);
    }
  }

  /// The current key tile, whose scores are on their way into `s`; if state.pending, `other` holds the weights of the
  /// one before. In the end the next tile's scores are on their way into `other`. False if there is none. kRuns: goes
  /// on with a run if state.run says so; one of two steps does, which is half the code and as fast.
  template <bool kRuns>
  __device__ __forceinline__ bool step(float (&s)[kScores], float (&other)[kScores], float (&o)[Traits::kOutputs],
                                       Place& place, State& state) const {
    const bool last = place.tile + 1 == place.end;
    wgmma_wait<0>();
    wgmma_results(s);
    release_key(state);
    bool more = more_after(place, state);
    Vote own;
    if (state.pending) {
      wait_for_value(state);
      wgmma_fence();
      issue_next_values(o, other, 0, state);
      own = vote(s, place, state);
      if (more) wait_for_key(state);
      wgmma_wait<0>();
      wgmma_results(o);
      release_value(state);
    } else {
      own = vote(s, place, state);
      if (more) wait_for_key(state);
    }
    wgmma_fence();
    issue_next_scores(other, place.n + last, state);
    bool skip = decide<false>(own, s, o, place, state);
    if (!skip) take_weights(s, s, 0, state);
    state.pending = !skip;
    state.run = skip ? 0 : state.run + 1;
    const bool runs = kRuns && state.run > kLongRun;
    if (!last && !runs) {
      ++place.tile;
      return true;
    }
    // Done for long. In one pipeline stage with it, ptxas would serialize the product that takes O, which raise()
    // scales.
    wgmma_wait<0>();
    wgmma_results(other);
    if (!skip) {
      wait_for_value(state);
      wgmma_fence();
      issue_next_values(o, s, 0, state);
      if (kRuns && !last) {
        const RunEnd end = run_on(other, s, o, place, state);
        skip = end.skip;
        state.pending = false;
        if (skip && !end.last) {
          state.run = 0;
          wait_for_key(state);
          wgmma_fence();
          issue_next_scores(other, place.n, state);
          ++place.tile;
          return true;
        }
        more = more_after(place, state);
        if (more) wait_for_key(state);
        if (!skip && end.half == 1) {
#pragma unroll
          for (int i = 0; i < kScores / 2; ++i) s[i] = s[kScores / 2 + i];
        }
        wgmma_fence();
        issue_next_scores(other, place.n + 1, state);
        if (!skip) {
          wait_for_value(state);
          issue_next_values(o, s, 0, state);
        }
      }
      wgmma_wait<0>();
      wgmma_results(o);
      wgmma_results(other);
      if (!skip) release_value(state);
    }
    ++place.tile;
    store(o, state.rows, place.n);
    state.start();
#pragma unroll
    for (int i = 0; i < Traits::kOutputs; ++i) o[i] = 0.0f;
    ++place.n;
    if (more) open(place);
    return more;
  }

  /// After the last key tile, scores of no tile are on their way.
  __device__ __forceinline__ void drain(float (&s)[kScores]) const {
    wgmma_wait<0>();
    wgmma_results(s);
  }

  __device__ void run() const {
    float o[Traits::kOutputs];
    float s0[kScores], s1[kScores];
    Place place;
    State state;
    Turn::start(warpgroup);
    if (arrives(0)) {
      open(place);
      state.start();
#pragma unroll
      for (int i = 0; i < Traits::kOutputs; ++i) o[i] = 0.0f;
      wait_for_key(state);
      wgmma_fence();
      issue_next_scores(s0, 0, state);
#pragma unroll 1
      for (;;) {
        if (!step<true>(s0, s1, o, place, state)) {
          drain(s1);
          break;
        }
        if (!step<false>(s1, s0, o, place, state)) {
          drain(s0);
          break;
        }
      }
    }
    if (warpgroup == 0) Turn::take(warpgroup);  // the one that warpgroup 1 has passed on last
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
      barrier_init(&shared.q_empty[i], 4 * Traits::kWarpgroups + 1);
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
