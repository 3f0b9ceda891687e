// The producer warps of the attention kernel (flash_forward.cuh has the whole picture): one takes tile numbers and
// loads Q, one loads K, one loads V. One lane of each works.
#pragma once

#include <cuda.h>

#include "kernels/cuda/sm90/hopper.h"
#include "kernels/cuda/sm90/softmax.h"
#include "kernels/cuda/sm90/traits.h"

namespace modelopt::kernels::cuda::sm90 {

/// A value that is the same in all lanes, made known as such to the compiler: what is computed from it stays in uniform
/// registers (without, the main loop has 22 more instructions to move addresses there).
__device__ __forceinline__ int uniform(int value) { return __shfl_sync(kFullWarp, value, 0); }

/// Position in a ring of shared-memory stages and the parity of its current phase.
template <int kStages>
struct Ring {
  int stage = 0;
  int parity;
  __device__ explicit Ring(int first_parity) : parity(first_parity) {}
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

/// Takes tiles from the counter (or from the CTA's list of those to be redone), describes them for the other warps and
/// loads Q.
template <typename Traits>
struct Scheduler {
  SharedMemory<Traits>& shared;
  const KernelArguments& args;

  /// Number of this CTA's next tile; -1 at the end.
  __device__ int take(bool first) const {
    Counters& counters = *args.schedule.counters;
    const unsigned i = first ? blockIdx.x : gridDim.x + atomicAdd(&counters.next_tile, 1u);
    return i < counters.tiles * args.params.heads ? static_cast<int>(i) : -1;
  }

  /// Number of the n-th tile of the rescue list; -1 at the end.
  __device__ int marked_tile(int n) const {
    return n == 0 ? shared.rescue_head : args.schedule.rescue_next[shared.slots[(n - 1) % kSlots].tile];
  }

  __device__ void describe(int number, TileSlot& slot) const {
    const AttentionParams& p = args.params;
    const int tiles = static_cast<int>(args.schedule.counters->tiles);
    const int section_tiles = args.section_heads * tiles;
    const int in_section = number % section_tiles;
    slot.head = number / section_tiles * args.section_heads + in_section % args.section_heads;
    const Tile tile = args.schedule.tiles[in_section / args.section_heads];
    const SequenceRows rows = args.schedule.rows[tile.sequence];
    slot.rows = rows;
    slot.position = tile.position;
    slot.map = tile.sequence * p.kv_heads + slot.head / (p.heads / p.kv_heads);
    const int first = max(tile.position, rows.first);
    const int last = min(tile.position + Traits::kRows, rows.k_len) - 1;
    slot.begin = p.sliding_window > 0 ? max(0, first - p.sliding_window + 1) / Traits::kKeys : 0;
    slot.end = (p.is_causal ? last : rows.k_len - 1) / Traits::kKeys + 1;
    slot.flagged = 0;
    slot.tile = number;
  }

  __device__ void run(const CUtensorMap* q_map) const {
    int parity = 1;
    for (int n = 0;; ++n, parity ^= 1) {
      TileSlot& slot = shared.slots[n % kSlots];
      const int number = Traits::kReference == Reference::kRescue ? marked_tile(n) : take(n == 0);
      if (number >= 0) {
        describe(number, slot);
      } else {
        slot.tile = -1;
      }
      barrier_arrive(&shared.slot_full[n % kSlots]);
      if (number < 0) {
        start_kernel_behind();
        return;
      }
      const int row = slot.rows.q_base + slot.position;
#pragma unroll 1
      for (int w = 0; w < Traits::kWarpgroups; ++w) {
        barrier_wait(&shared.q_empty[w], parity);
        barrier_expect_bytes(&shared.q_full[w], Traits::kPanels * kBlockRows * 128);
        for (int panel = 0; panel < Traits::kPanels; ++panel) {
          copy_box_3d(shared.q + panel * Traits::kRowPanelBytes + w * kBlockRows * 128, q_map, &shared.q_full[w],
                      64 * panel, slot.head, row + w * kBlockRows);
        }
      }
    }
  }
};

/// Loads the K or the V tiles of every tile that the scheduler hands out.
template <typename Traits, bool kPermuted>
struct Loader {
  SharedMemory<Traits>& shared;
  std::uint8_t (&stages)[Traits::kStages][Traits::kStageBytes];
  std::uint64_t (&full)[Traits::kStages];
  std::uint64_t (&empty)[Traits::kStages];

  __device__ __forceinline__ void load_tile(const CUtensorMap* map, int stage, int tile) const {
    barrier_expect_bytes(&full[stage], Traits::kStageBytes);
    for (int panel = 0; panel < Traits::kPanels; ++panel) {
      std::uint8_t* to = stages[stage] + panel * Traits::kKeyPanelBytes;
      if constexpr (kPermuted) {
        copy_box_5d(to, map, &full[stage], 64 * panel, tile * (Traits::kKeys / Traits::kBlock));
      } else {
        copy_box_2d(to, map, &full[stage], 64 * panel, tile * Traits::kKeys);
      }
    }
  }

  /// The last tile of a sequence that ends within it, pair by pair; what lies behind the end is filled with zeros.
  __device__ __forceinline__ void load_pairs(const CUtensorMap* pairs, int stage, int tile) const {
    constexpr int kBlock = Traits::kBlock;
    barrier_expect_bytes(&full[stage], Traits::kStageBytes);
    for (int panel = 0; panel < Traits::kPanels; ++panel) {
#pragma unroll 1
      for (int key = 0; key < Traits::kKeys; key += 2) {
        const int in_block = key % kBlock;
        const int row = key - in_block + in_block % (kBlock / 4) * 4 + in_block / (kBlock / 4) * 2;
        copy_box_2d(stages[stage] + panel * Traits::kKeyPanelBytes + row * 128, pairs, &full[stage], 64 * panel,
                    tile * Traits::kKeys + key);
      }
    }
  }

  /// `map` and `pairs` are MapKind.
  __device__ void run(const CUtensorMap* maps, int map, int pairs) const {
    Ring<Traits::kStages> ring(1);
    for (int n = 0;; ++n) {
      barrier_wait(&shared.slot_full[n % kSlots], n / kSlots & 1);
      const TileSlot& slot = shared.slots[n % kSlots];
      if (slot.tile < 0) return;
      const CUtensorMap* own = maps + slot.map * kMapKinds;
      const int end = slot.end;
      const int k_len = slot.rows.k_len;
      tensor_map_acquire(own + map);
      if constexpr (kPermuted) tensor_map_acquire(own + pairs);
      for (int tile = slot.begin; tile < end; ++tile) {
        barrier_wait(&empty[ring.stage], ring.parity);
        if (kPermuted && (tile + 1) * Traits::kKeys > k_len) {
          load_pairs(own + pairs, ring.stage, tile);
        } else {
          load_tile(own + map, ring.stage, tile);
        }
        ring.advance();
      }
    }
  }
};

}  // namespace modelopt::kernels::cuda::sm90
