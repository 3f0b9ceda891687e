// The producer warps of the skip-softmax kernel (skip_forward.cuh has the whole picture). One lane of each works.
#pragma once

#include "kernels/cuda/sm90/producers.cuh"
#include "kernels/cuda/sm90/skip/skip_traits.h"

namespace modelopt::kernels::cuda::sm90 {

template <typename Traits>
struct SkipProducer {
  SharedMemory<Traits>& shared;
  const SkipArguments& args;

  /// Takes query blocks from the counter, describes them for the other warps and loads Q, one block ahead.
  __device__ void load_queries(const CUtensorMap* q_map) const {
    const Scheduler<Traits> scheduler{shared, args};
    Ring<Traits::kQueryStages> q(1);
    for (int n = 0;; ++n) {
      TileSlot& slot = shared.slots[n % kSlots];
      const int number = scheduler.take(n == 0);
      if (number >= 0) {
        scheduler.describe(number, slot);
      } else {
        slot.tile = -1;
      }
      barrier_arrive(&shared.slot_full[n % kSlots]);
      if (number < 0) return;
      barrier_wait(&shared.q_empty[q.stage], q.parity);
      barrier_expect_bytes(&shared.q_full[q.stage], Traits::kQueryBytes);
      for (int panel = 0; panel < Traits::kPanels; ++panel) {
        copy_box_3d(shared.q[q.stage] + panel * Traits::kRowPanelBytes, q_map, &shared.q_full[q.stage], 64 * panel,
                    slot.head, slot.rows.q_base + slot.position);
      }
      q.advance();
    }
  }

  __device__ __forceinline__ void load_tile(std::uint8_t* to, std::uint64_t* full, const CUtensorMap* map,
                                            int tile) const {
    barrier_expect_bytes(full, Traits::kStageBytes);
    for (int panel = 0; panel < Traits::kPanels; ++panel) {
      copy_box_2d(to + panel * Traits::kKeyPanelBytes, map, full, 64 * panel, tile * Traits::kKeys);
    }
  }

  /// Loads the K tiles of every query block, one after the other, whatever is skipped.
  __device__ void load_keys() const {
    Ring<Traits::kKeyStages> k(1);
    Ring<kVoteSlots> votes(1);
    for (int n = 0;; ++n) {
      barrier_wait(&shared.slot_full[n % kSlots], n / kSlots & 1);
      const TileSlot& slot = shared.slots[n % kSlots];
      if (slot.tile < 0) return;
      const CUtensorMap* map = args.schedule.maps + slot.map * kMapKinds + kKeys;
      const int end = slot.end;
      tensor_map_acquire(map);
#pragma unroll 1
      for (int tile = slot.begin; tile < end; ++tile) {
        barrier_wait(&shared.votes_read[votes.stage], votes.parity);  // nobody votes on a block before it is here
        votes.advance();
        barrier_wait(&shared.k_empty[k.stage], k.parity);
        load_tile(shared.k[k.stage], &shared.k_full[k.stage], map, tile);
        k.advance();
      }
    }
  }

  /// Waits until it is known whether the block is skipped. Warpgroup 0 votes first, and its objection is enough.
  __device__ bool all_skip(int slot, int parity) const {
    for (int w = 0; w < Traits::kWarpgroups; ++w) {
      barrier_wait(&shared.votes_full[slot][w], parity);
      if (shared.votes[slot][w] != kAllSkip) return false;
    }
    return true;
  }

  /// Loads the V tiles of blocks that are not skipped.
  __device__ void load_values() const {
    Ring<Traits::kValueStages> v(1);
    Ring<kVoteSlots> votes(0);
    for (int n = 0;; ++n) {
      barrier_wait(&shared.slot_full[n % kSlots], n / kSlots & 1);
      const TileSlot& slot = shared.slots[n % kSlots];
      if (slot.tile < 0) return;
      const int index = slot.map;
      const int begin = slot.begin;
      const int end = slot.end;
      barrier_arrive(&shared.q_empty[n % Traits::kQueryStages]);  // the slot is read
      const CUtensorMap* map = args.schedule.maps + index * kMapKinds + kValues;
      tensor_map_acquire(map);
#pragma unroll 1
      for (int tile = begin; tile < end; ++tile) {
        const bool skip = all_skip(votes.stage, votes.parity);
        barrier_arrive(&shared.votes_read[votes.stage]);
        votes.advance();
        if (skip) continue;
        barrier_wait(&shared.v_empty[v.stage], v.parity);
        load_tile(shared.v[v.stage], &shared.v_full[v.stage], map, tile);
        v.advance();
      }
    }
  }
};

}  // namespace modelopt::kernels::cuda::sm90
