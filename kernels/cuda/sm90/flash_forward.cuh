// Fused attention forward for Hopper: TMA, wgmma and wgmma.sp, persistent and warp-specialised.
//
// CTA         kWarpgroups consumer warpgroups of 64 query rows each (3 x 64; 2 x 64 for head_dim 256) and one producer
//             warpgroup (producers.cuh): a warp loads K, one loads V, one takes tile numbers and loads Q.
//             Grid = SMs. Tiles come longest first from a counter; the heads of a section share the L2 cache.
// Registers   consumers 160 (head_dim 64 .. 128: O 64, S 48, P 12 + 12, metadata 2 with 96 sparse keys) or 240,
//             producers 32 or 24: 65536 in all, 64512 for head_dim 256.
// Shared      Q kRows, K and V kStages tiles of kKeys each, 128-byte swizzle, in panels of 64 elements (traits.h):
//             192 KiB for head_dim 128 sparse.
// Barriers    q_full/q_empty per warpgroup (64 rows each), k_full/k_empty and v_full/v_empty per stage, slot_full per
//             tile slot; empties count one arrival per warpgroup. all_done and restarted lie between the tiles of the
//             counter and those of the rescue list. Named barriers 1 + w: the turn of warpgroup w.
// Turns       Warpgroups issue their products in turn: P·V of key tile j and Q·K of tile j + 1, then pass the turn on;
//             the others do their softmax meanwhile. Every warpgroup takes one turn per key tile of the CTA, needed or
//             not. The last P·V of a tile shares its turn with the first Q·K of the next; O is stored under that one.
// Tiles       Interior key tiles take the sparse product; those that touch a sequence's end, the diagonal, a window or
//             the sinks are masked score by score and take a dense one: with permuted keys two sparse products of
//             constant metadata (keys 0, 1 and keys 2, 3 of each group). Which it is depends on absolute positions
//             alone: blocks of rows lie at multiples of 64 of the position, key tiles at multiples of kKeys from the
//             sequence's first key.
// Overflow    With the biased reference a sum that leaves (2^-125, 2^100) marks its row and puts its tile on the CTA's
//             list. When all tiles are done, the CTA goes through its list again with true maxima, for exactly the
//             marked rows.
#pragma once

#include <cuda.h>

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/sm90/hopper.h"
#include "kernels/cuda/sm90/producers.cuh"
#include "kernels/cuda/sm90/record.h"
#include "kernels/cuda/sm90/softmax.h"
#include "kernels/cuda/sm90/traits.h"
#include "kernels/cuda/sm90/wgmma_instructions.h"

namespace modelopt::kernels::cuda::sm90 {

// --- consumers -------------------------------------------------------------------------------------------------------

/// Key tiles of one block of rows: [begin, end) are worked on; [clean0, clean_end0) and [clean1, clean_end1) of them
/// need no mask.
struct KeyRange {
  int begin, end, cta_end;
  int clean0, clean_end0;
  int clean1, clean_end1;
};

template <typename Traits>
__device__ __forceinline__ KeyRange key_range_of(const AttentionParams& p, const TileSlot& slot, int position) {
  constexpr int kKeys = Traits::kKeys;
  const int last_position = position + kBlockRows - 1;
  const int k_len = uniform(slot.rows.k_len);
  KeyRange range;
  range.begin = uniform(slot.begin);
  range.cta_end = uniform(slot.end);
  range.end = p.is_causal ? min(range.cta_end, max(range.begin, floor_div(last_position, kKeys)) + 1) : range.cta_end;
  const int visible_end = min(k_len / kKeys, p.is_causal ? floor_div(position + 1, kKeys) : k_len / kKeys);
  int visible = p.sliding_window > 0 ? max(0, floor_div(last_position - p.sliding_window, kKeys) + 1) : 0;
  range.clean0 = range.clean1 = visible;
  range.clean_end0 = visible_end;
  range.clean_end1 = 0;
  if constexpr (Traits::kPattern != Pattern::kDense) {
    visible = max(visible, (uniform(slot.rows.dense_keys) + kKeys - 1) / kKeys);
    range.clean0 = visible;
    if (p.dense_window_size > 0) {
      range.clean_end0 = min(visible_end, floor_div(position - p.dense_window_size + 1, kKeys));
      range.clean1 = max(visible, floor_div(last_position, kKeys) + 1);
      range.clean_end1 = visible_end;
    }
  }
  return range;
}

/// End of the run of clean tiles that `tile` lies in; `tile` itself if it is not clean.
__device__ __forceinline__ int clean_until(const KeyRange& range, int tile) {
  if (tile >= range.clean0 && tile < range.clean_end0) return min(range.clean_end0, range.end);
  if (tile >= range.clean1 && tile < range.clean_end1) return min(range.clean_end1, range.end);
  return tile;
}

/// Shared-memory matrix descriptor with 128-byte swizzle; leading: bytes between panels (V) or 16 where there is no
/// such step, 1024 bytes between groups of 8 rows.
__device__ __forceinline__ std::uint64_t matrix_descriptor(const void* matrix, int leading) {
  const std::uint32_t address = shared_address(matrix);
  return static_cast<std::uint64_t>((address & 0x3FFFF) >> 4) | static_cast<std::uint64_t>(leading >> 4) << 16 |
         std::uint64_t{1024 >> 4} << 32 | std::uint64_t{1} << 62;
}

template <typename Traits>
__device__ __forceinline__ void issue_scores(float (&s)[Traits::kScores], std::uint64_t q,
                                             const std::uint8_t* k_stage) {
  const std::uint64_t k = matrix_descriptor(k_stage, 16);
#pragma unroll
  for (int step = 0; step < Traits::kHeadDim / 16; ++step) {
    const int panel = step / 4;
    const int within = step % 4 * 2;  // 32 bytes, in units of 16
    Wgmma<typename Traits::Element, Traits::kKeys>::scores(s, q + within + panel * (Traits::kRowPanelBytes / 16),
                                                           k + within + panel * (Traits::kKeyPanelBytes / 16),
                                                           step > 0);
  }
}

/// O += P V. Sparse: `kept` and `metadata` are the compressed operand.
template <typename Traits>
__device__ __forceinline__ void issue_values(float (&o)[Traits::kOutputs], const std::uint32_t* kept,
                                             const std::uint32_t* metadata, const std::uint8_t* v_stage) {
  using Product = Wgmma<typename Traits::Element, Traits::kHeadDim>;
  const std::uint64_t v = matrix_descriptor(v_stage, Traits::kKeyPanelBytes);
  if constexpr (Traits::kSparse) {
#pragma unroll
    for (int i = 0; i < Traits::kKeys / 32; ++i) {
      if (i % 2 == 0) {
        Product::sparse_values0(o, kept + 4 * i, v + 256 * i, metadata[i / 2]);
      } else {
        Product::sparse_values1(o, kept + 4 * i, v + 256 * i, metadata[i / 2]);
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < Traits::kKeys / 16; ++i) Product::values(o, kept + 4 * i, v + 128 * i);
  }
}

/// Turns of `kWarpgroups` consumer warpgroups in issuing their products: named barrier 1 + w says that it is w's.
template <int kWarpgroups>
struct Turns {
  static constexpr int kThreads = 256;  ///< the warpgroup whose turn it is and the one that passes it on

  static __device__ __forceinline__ void take(int warpgroup) { named_barrier_sync(1 + warpgroup, kThreads); }
  static __device__ __forceinline__ void pass(int warpgroup) { named_barrier_arrive(1 + next(warpgroup), kThreads); }
  /// The first turn is warpgroup 0's, as if it had been passed on.
  static __device__ __forceinline__ void start(int warpgroup) {
    if (warpgroup == kWarpgroups - 1) named_barrier_arrive(1, kThreads);
  }

 private:
  static __device__ __forceinline__ int next(int warpgroup) {
    // of two, the other one: no remainder to compute
    return kWarpgroups == 2 ? 1 - warpgroup : (warpgroup + 1) % kWarpgroups;
  }
};

/// A warpgroup, by one of its threads, no longer needs what the barrier stands for.
__device__ __forceinline__ void release(std::uint64_t* empty, int thread) {
  if (thread == 0) barrier_arrive(empty);
}

template <typename Traits>
struct Consumer {
  static constexpr bool kBiased = Traits::kReference == Reference::kBiased;
  static constexpr bool kRescue = Traits::kReference == Reference::kRescue;

  SharedMemory<Traits>& shared;
  const KernelArguments& args;
  const int warpgroup;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int quad_lane = thread % 4;
  const int row = thread / 32 * 16 + thread % 32 / 4;  ///< of its block; the other one is row + 8

  using Turn = Turns<Traits::kWarpgroups>;

  /// Masks a tile's scores: positions, then selection where neither sink nor window holds a key.
  __device__ __forceinline__ void mask(float (&s)[Traits::kScores], const SequenceRows& rows, int index, int head,
                                       int position, int tile, PairCounts& counts) const {
    const AttentionParams& p = args.params;
    const int first_key = tile * Traits::kKeys;
    const int offset = first_key + quad_lane * KeyLayout<Traits>::kPerThread;
    const int warp_position = uniform(position + thread / 32 * 16);
    const RowLimits limits[2] = {limits_of(p, rows, position + row, offset),
                                 limits_of(p, rows, position + row + 8, offset)};
    const bool all_visible =
        first_key + Traits::kKeys <= rows.k_len && (!p.is_causal || first_key + Traits::kKeys - 1 <= warp_position);
    if (p.sliding_window > 0) {
      hide_keys<Traits, true>(s, limits);
    } else if (!all_visible) {
      hide_keys<Traits, false>(s, limits);
    }
    TileBits visible{};
    if constexpr (Traits::kRecords) visible = finite_bits<Traits>(s);
    const auto drop = [&]<int kM, int kN>() {
      if (first_key < rows.dense_keys || !p.is_causal) {
        drop_keys<Traits, kM, kN, true, false>(s, p, limits, rows.dense_keys, warp_position, first_key, offset);
      } else {
        drop_keys<Traits, kM, kN, false, true>(s, p, limits, rows.dense_keys, warp_position, first_key, offset);
      }
    };
    if constexpr (Traits::kSparse && Traits::kPattern != Pattern::kSparse1of4) {
      drop.template operator()<4, 2>();
    } else if constexpr (Traits::kPattern == Pattern::kSparse1of4) {
      drop.template operator()<4, 1>();
    } else if constexpr (Traits::kPattern == Pattern::kMasked) {
      if (p.sparsity_m == 4) {
        drop.template operator()<4, 3>();
      } else {
        drop.template operator()<8, 0>();
      }
    }
    if constexpr (Traits::kRecords) {
      record_tile<Traits>(args, rows, index, head, position + row, tile, quad_lane, visible, finite_bits<Traits>(s),
                          counts);
    }
  }

  /// Selection in a tile that needs no mask.
  __device__ __forceinline__ void select(float (&s)[Traits::kScores]) const {
    const AttentionParams& p = args.params;
    if constexpr (Traits::kPattern == Pattern::kSparse1of4) {
      drop_clean_keys<Traits, 4, 1>(s, 1);
    } else if constexpr (Traits::kSparse) {
      drop_clean_keys<Traits, 4, 2>(s, 2);
    } else if constexpr (Traits::kPattern == Pattern::kMasked) {
      if (p.sparsity_m == 4) {  // 3:4: the other two of four have patterns of their own
        drop_clean_keys<Traits, 4, 3>(s, 3);
      } else if (p.sparsity_n == 4) {
        drop_clean_keys_4of8<Traits>(s);
      } else {
        drop_clean_keys<Traits, 8, 0>(s, p.sparsity_n);
      }
    }
  }

  /// O, log-sum-exp and, where the biased reference has failed, marks. `position` is the block's.
  __device__ __forceinline__ void store(const float (&o)[Traits::kOutputs], const RowState& rows, int position,
                                        int head, const SequenceRows& sequence, TileSlot& slot) const {
    using Element = typename Traits::Element;
    const AttentionParams& p = args.params;
    constexpr float kLn2 = 0.6931471805599453f;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float sum = quad_sum(rows.sum[h]);
      const int at = position + row + 8 * h;
      const std::int64_t index = (static_cast<std::int64_t>(sequence.q_base) + at) * p.heads + head;
      bool wanted = at >= sequence.first && at < sequence.k_len;
      if constexpr (kRescue) {
        wanted = wanted && __float_as_uint(p.logsumexp[index]) == kMarkedRow;
        __syncwarp();  // every lane of the quad has read the mark before it is overwritten
      }
      const bool bad = kBiased && !(sum > 2.3509887e-38f && sum < 1.2676506e30f);  // 2^-125, 2^100
      if (wanted && quad_lane == 0) {
        const float lse = kBiased ? (log2f(sum) - rows.shift[h]) * kLn2 : logf(sum) - rows.shift[h] * p.scale;
        p.logsumexp[index] = bad ? __uint_as_float(kMarkedRow) : sum == 0.0f ? kNegativeInfinity<float> : lse;
        if constexpr (kBiased) {
          if (bad && atomicExch(&slot.flagged, 1u) == 0) {
            args.schedule.rescue_next[slot.tile] = atomicExch(&shared.rescue_head, slot.tile);
          }
        }
      }
      const float factor = sum == 0.0f ? 0.0f : 1.0f / sum;
      Element* out = static_cast<Element*>(p.output) + index * p.head_dim;
#pragma unroll
      for (int q = 0; q < Traits::kHeadDim / 32; ++q) {
        // 4 x 4 transpose over the quad: lane c gets the 16 bytes of 8-column block 4q + c
        std::uint32_t x[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int b = 4 * (4 * q + i) + 2 * h;
          x[i] = pack<Element>(o[b] * factor, o[b + 1] * factor);
        }
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
          const std::uint32_t y = __shfl_xor_sync(kFullWarp, (quad_lane & 1) != 0 ? x[i] : x[i + 1], 1);
          ((quad_lane & 1) != 0 ? x[i] : x[i + 1]) = y;
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const std::uint32_t y = __shfl_xor_sync(kFullWarp, (quad_lane & 2) != 0 ? x[i] : x[i + 2], 2);
          ((quad_lane & 2) != 0 ? x[i] : x[i + 2]) = y;
        }
        const int column = 8 * (4 * q + quad_lane);
        if (wanted && column < p.head_dim) *reinterpret_cast<uint4*>(out + column) = make_uint4(x[0], x[1], x[2], x[3]);
      }
    }
  }

  __device__ void run() const {
    float o[Traits::kOutputs];
    float s[Traits::kScores];
    RowState rows;
    Weights<Traits> weights;
    // Sparse pattern, masked tiles: keys 2 and 3 of each group, while weights.kept has keys 0 and 1.
    std::uint32_t upper[Traits::kSparse ? Traits::kKeys / 8 : 1];
    const float scale = args.scale_log2;
    const std::uint64_t q = matrix_descriptor(shared.q + warpgroup * kBlockRows * 128, 16);
    Ring<Traits::kStages> k(0), v(0);
    int n = 0;  // tiles of this CTA
    [[maybe_unused]] PairCounts counts;
    const auto next_key_stage = [&] {
      release(&shared.k_empty[k.stage], thread);
      k.advance();
    };
    const auto next_value_stage = [&] {
      release(&shared.v_empty[v.stage], thread);
      v.advance();
    };
    const auto issue_masked_values = [&] {
      if constexpr (Traits::kSparse) {
        std::uint32_t lower_pair[(Traits::kKeys + 63) / 64], upper_pair[(Traits::kKeys + 63) / 64];
#pragma unroll
        for (int i = 0; i < (Traits::kKeys + 63) / 64; ++i) {
          lower_pair[i] = weights.metadata[i];
          upper_pair[i] = 0xEEEEEEEEu;
        }
        issue_values<Traits>(o, weights.kept, lower_pair, shared.v[v.stage]);
        issue_values<Traits>(o, upper, upper_pair, shared.v[v.stage]);
      } else {
        issue_values<Traits>(o, weights.kept, weights.metadata, shared.v[v.stage]);
      }
    };
    const auto masked_softmax = [&](const SequenceRows& sequence, int index, int head, int position, int tile) {
      mask(s, sequence, index, head, position, tile, counts);
      if constexpr (kBiased) {
        start_rows(s, scale, rows);
      } else {
        raise_rows(s, scale, o, rows);
      }
      if constexpr (Traits::kSparse) {
        exponentials<Traits>(s, scale, rows);
#pragma unroll
        for (int b = 0; b < Traits::kKeys / 16; ++b) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int at = 8 * b + 2 * h;
            weights.kept[2 * b + h] = pack<typename Traits::Element>(s[at], s[at + 1]);
            upper[2 * b + h] = pack<typename Traits::Element>(s[at + 4], s[at + 5]);
          }
        }
#pragma unroll
        for (int i = 0; i < (Traits::kKeys + 63) / 64; ++i) weights.metadata[i] = 0x44444444u;
      } else {
        dense_softmax<Traits>(s, scale, rows, weights);
      }
    };
    const auto clean_softmax = [&](const SequenceRows& sequence, int index, int head, int position, int tile) {
      if constexpr (Traits::kRecords) {
        const TileBits visible = finite_bits<Traits>(s);
        float dropped[Traits::kScores];
#pragma unroll
        for (int i = 0; i < Traits::kScores; ++i) dropped[i] = s[i];
        select(dropped);
        record_tile<Traits>(args, sequence, index, head, position + row, tile, quad_lane, visible,
                            finite_bits<Traits>(dropped), counts);
      }
      if constexpr (!kBiased) raise_rows(s, scale, o, rows);
      if constexpr (Traits::kSparse) {
        sparse_softmax<Traits>(s, scale, args.one, quad_lane, rows, weights);
      } else {
        select(s);
        dense_softmax<Traits>(s, scale, rows, weights);
      }
    };

    Turn::start(warpgroup);
    barrier_wait(&shared.slot_full[0], 0);
    if (uniform(shared.slots[0].tile) < 0) return;
#pragma unroll
    for (int i = 0; i < Traits::kOutputs; ++i) o[i] = 0.0f;
    barrier_wait(&shared.q_full[warpgroup], 0);
    barrier_wait(&shared.k_full[k.stage], k.parity);
    Turn::take(warpgroup);
    wgmma_fence();
    issue_scores<Traits>(s, q, shared.k[k.stage]);
    wgmma_commit();
    Turn::pass(warpgroup);
    wgmma_wait<0>();
    wgmma_results(s);
    next_key_stage();
#pragma unroll 1
    for (;;) {
      TileSlot& slot = shared.slots[n % kSlots];
      const int position = uniform(slot.position) + warpgroup * kBlockRows;
      const SequenceRows sequence = {uniform(slot.rows.q_base), uniform(slot.rows.first), uniform(slot.rows.k_len),
                                     uniform(slot.rows.dense_keys)};
      const int head = slot.head;
      const int index = slot.map / args.params.kv_heads;  // of the sequence
      const KeyRange range = key_range_of<Traits>(args.params, slot, position);
      int tile = range.begin;
#pragma unroll 1
      for (;;) {
        const int clean_end = clean_until(range, tile);
        if (tile < clean_end) {
          if constexpr (kBiased) start_rows(s, scale, rows);
#pragma unroll 1
          for (;;) {
            clean_softmax(sequence, index, head, position, tile);
            if (++tile == range.end) break;
            barrier_wait(&shared.v_full[v.stage], v.parity);
            barrier_wait(&shared.k_full[k.stage], k.parity);
            Turn::take(warpgroup);
            wgmma_fence();
            issue_values<Traits>(o, weights.kept, weights.metadata, shared.v[v.stage]);
            wgmma_commit();
            issue_scores<Traits>(s, q, shared.k[k.stage]);
            wgmma_commit();
            Turn::pass(warpgroup);
            wgmma_wait<1>();
            next_value_stage();
            wgmma_wait<0>();
            wgmma_results(s);
            wgmma_results(o);
            next_key_stage();
            if constexpr (kBiased) guard_rows(o, rows);
            if (tile == clean_end) break;
          }
          if (tile == range.end) {
            release(&shared.q_empty[warpgroup], thread);
            if constexpr (Traits::kSparse) {
#pragma unroll
              for (auto& pair : upper) pair = 0;  // the last product is issued as a masked one
            }
            break;
          }
        }
        if (tile == range.end - 1) release(&shared.q_empty[warpgroup], thread);
        masked_softmax(sequence, index, head, position, tile);
        if (++tile == range.end) break;
        barrier_wait(&shared.v_full[v.stage], v.parity);
        barrier_wait(&shared.k_full[k.stage], k.parity);
        Turn::take(warpgroup);
        wgmma_fence();
        issue_masked_values();
        wgmma_commit();
        if constexpr (Traits::kSparse) {  // both products of a masked tile and Q·Kᵀ do not fit the registers together
          wgmma_wait<0>();
          wgmma_results(o);
          wgmma_fence();
        }
        issue_scores<Traits>(s, q, shared.k[k.stage]);
        wgmma_commit();
        Turn::pass(warpgroup);
        wgmma_wait<1>();
        next_value_stage();
        wgmma_wait<0>();
        wgmma_results(s);
        wgmma_results(o);
        next_key_stage();
        if constexpr (kBiased) guard_rows(o, rows);
      }
      // Turns without use: key tiles that other warpgroups of the CTA need.
      const int skipped = range.cta_end - range.end;
#pragma unroll 1
      for (int i = 0; i < skipped; ++i) {
        barrier_wait(&shared.k_full[k.stage], k.parity);
        next_key_stage();
        Turn::take(warpgroup);
        Turn::pass(warpgroup);
      }
      // The last P·V of this tile together with the first Q·Kᵀ of the next.
      if constexpr (Traits::kRecords) {
        add_counts(args.params, index, head, counts);
        counts = PairCounts();
      }
      ++n;
      barrier_wait(&shared.slot_full[n % kSlots], n / kSlots & 1);
      const bool more = uniform(shared.slots[n % kSlots].tile) >= 0;
      barrier_wait(&shared.v_full[v.stage], v.parity);
      if (!more) {
        Turn::take(warpgroup);
        wgmma_fence();
        issue_masked_values();
        wgmma_commit();
        if (warpgroup < Traits::kWarpgroups - 1) Turn::pass(warpgroup);
        wgmma_wait<0>();
        wgmma_results(o);
        next_value_stage();
#pragma unroll 1
        for (int i = 0; i < skipped; ++i) {
          barrier_wait(&shared.v_full[v.stage], v.parity);
          next_value_stage();
        }
        store(o, rows, position, head, sequence, slot);
        return;
      }
      barrier_wait(&shared.q_full[warpgroup], n & 1);
      barrier_wait(&shared.k_full[k.stage], k.parity);
      Turn::take(warpgroup);
      wgmma_fence();
      issue_masked_values();
      wgmma_commit();
      if constexpr (Traits::kSparse) {
        wgmma_wait<0>();
        wgmma_results(o);
        wgmma_fence();
      }
      issue_scores<Traits>(s, q, shared.k[k.stage]);
      wgmma_commit();
      Turn::pass(warpgroup);
      wgmma_wait<1>();
      wgmma_results(o);
      next_value_stage();
#pragma unroll 1
      for (int i = 0; i < skipped; ++i) {
        barrier_wait(&shared.v_full[v.stage], v.parity);
        next_value_stage();
      }
      store(o, rows, position, head, sequence, slot);
      rows = RowState();
#pragma unroll
      for (int i = 0; i < Traits::kOutputs; ++i) o[i] = 0.0f;
      wgmma_wait<0>();
      wgmma_results(s);
      next_key_stage();
    }
  }
};

template <typename Traits>
__device__ __forceinline__ void initialize_barriers(SharedMemory<Traits>& shared) {
  for (int i = 0; i < Traits::kWarpgroups; ++i) {
    barrier_init(&shared.q_full[i], 1);
    barrier_init(&shared.q_empty[i], 1);
  }
  for (int i = 0; i < Traits::kStages; ++i) {
    barrier_init(&shared.k_full[i], 1);
    barrier_init(&shared.v_full[i], 1);
    barrier_init(&shared.k_empty[i], Traits::kWarpgroups);
    barrier_init(&shared.v_empty[i], Traits::kWarpgroups);
  }
  for (auto& barrier : shared.slot_full) barrier_init(&barrier, 1);
  barrier_init_fence();
}

constexpr int kProducerWarps = 3;

/// The part of a producer warp's one working lane: all tiles of the counter, or of the rescue list.
template <typename Traits>
__device__ __forceinline__ void produce(SharedMemory<Traits>& shared, const CUtensorMap* q_map,
                                        const KernelArguments& args) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if (warp == 0) {
    Loader<Traits, Traits::kPermutedKeys>{shared, shared.k, shared.k_full, shared.k_empty}.run(args.schedule.maps,
                                                                                               kKeys, kKeyPairs);
  } else if (warp == 1) {
    Loader<Traits, Traits::kPermutedValues>{shared, shared.v, shared.v_full, shared.v_empty}.run(args.schedule.maps,
                                                                                                 kValues, kValuePairs);
  } else {
    Scheduler<Traits>{shared, args}.run(q_map);
  }
}

/// Between the tiles of the counter and those of the rescue list: whether there are any. Marks and lists of all warps
/// are visible behind it. Producers and consumers meet here from code of their own, because they have different
/// registers: at mbarriers, since __syncthreads() is for threads of one place.
template <typename Traits>
__device__ __forceinline__ bool prepare_rescue(SharedMemory<Traits>& shared) {
  if (threadIdx.x % 32 == 0) barrier_arrive(&shared.all_done);
  barrier_wait(&shared.all_done, 0);
  if (shared.rescue_head < 0) return false;
  if (threadIdx.x == 0) {
    for (auto* barrier = shared.q_full; barrier != shared.slot_full + kSlots; ++barrier) barrier_invalidate(barrier);
    initialize_barriers(shared);
    barrier_arrive(&shared.restarted);
  }
  barrier_wait(&shared.restarted, 0);
  return true;
}

template <typename Traits>
__global__ void __launch_bounds__(Traits::kThreads, 1)
    flash_forward(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ KernelArguments args) {
  using Rescue = typename Traits::Rescue;
  constexpr bool kBiased = Traits::kReference == Reference::kBiased;
  static_assert(sizeof(SharedMemory<Rescue>) == sizeof(SharedMemory<Traits>));
  extern __shared__ std::uint8_t raw[];
  const auto aligned = (reinterpret_cast<std::uintptr_t>(raw) + 1023) & ~std::uintptr_t{1023};
  auto& shared = *reinterpret_cast<SharedMemory<Traits>*>(aligned);
  auto& rescue_shared = *reinterpret_cast<SharedMemory<Rescue>*>(aligned);
  if (threadIdx.x == 0) {
    barrier_init(&shared.all_done, 4 * Traits::kWarpgroups + kProducerWarps);
    barrier_init(&shared.restarted, 1);
    initialize_barriers(shared);
    shared.rescue_head = -1;
  }
  __syncthreads();
  const int warpgroup = __shfl_sync(kFullWarp, static_cast<int>(threadIdx.x) / 128, 0);
  if (warpgroup == 0) {
    registers_shrink<Traits::kProducerRegisters>();
    if (threadIdx.x % 32 != 0 || threadIdx.x == 32 * kProducerWarps) return;
    wait_for_kernel_before();
    produce(shared, &q_map, args);
    if constexpr (kBiased) {
      if (prepare_rescue(shared)) produce(rescue_shared, &q_map, args);
    }
  } else {
    registers_grow<Traits::kConsumerRegisters>();
    wait_for_kernel_before();
    Consumer<Traits>{shared, args, warpgroup - 1}.run();
    if constexpr (kBiased) {
      __syncwarp();  // what its lanes have written goes before the warp's arrival
      if (prepare_rescue(shared)) Consumer<Rescue>{rescue_shared, args, warpgroup - 1}.run();
    }
  }
}

}  // namespace modelopt::kernels::cuda::sm90
