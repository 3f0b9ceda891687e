// Tile sizes and shared memory of the Hopper attention kernel, by element type, head dimension and pattern.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/sm90/schedule.h"
#include "kernels/cuda/visible_blocks.h"

namespace modelopt::kernels::cuda::sm90 {

/// What a tile of scores goes through between Q·Kᵀ and P·V.
enum class Pattern {
  kDense,       ///< nothing dropped
  kSparse2of4,  ///< 2:4: two largest of four, P·V on the sparse tensor cores
  /// The same with the kept pair in either order, which saves two instructions a group. PTX documents metadata with
  /// ascending indices only: unordered_metadata_works() tests the device first.
  kSparse2of4Unordered,
  kSparse1of4,  ///< 1:4: likewise, one of the two is zero
  kMasked,      ///< any N:M: dropped scores are -inf, P·V is dense
};

constexpr bool is_sparse(Pattern pattern) {
  return pattern == Pattern::kSparse2of4 || pattern == Pattern::kSparse2of4Unordered || pattern == Pattern::kSparse1of4;
}

/// kBiased: a row's exponents refer to the largest score of its first tile, lowered by 2^kBias, and move only when its
/// sum has grown past 2^(kMargin - kBias): no maxima, no rescaling of O in the main loop. Needs the exponent range of
/// bf16. kTrueMaxima: the running maximum of online softmax; O is rescaled when it grows by more than 2^kSlack.
/// kRescue: the same, for rows alone that the biased reference could not hold.
enum class Reference { kBiased, kTrueMaxima, kRescue };

constexpr int kBias = 64;
constexpr int kMargin = 20;
constexpr int kSlack = 8;

/// kRecords: the attended mask and the counts of pairs are written as well; slower, and not a bit of the output
/// differs.
template <typename Element_, int kHeadDim_, Pattern kPattern_, Reference kReference_, bool kRecords_ = false>
struct KernelTraits {
  using Element = Element_;
  static constexpr int kHeadDim = kHeadDim_;  ///< 64, 96, 128 or 256; smaller ones are padded with zeros by the copies
  static constexpr Pattern kPattern = kPattern_;
  static constexpr Reference kReference = kReference_;
  static constexpr bool kRecords = kRecords_;
  static constexpr bool kSparse = is_sparse(kPattern);

  static constexpr int kWarpgroups = kHeadDim <= 128 ? 3 : 2;  ///< consumers, kBlockRows query rows each
  static constexpr int kRows = kWarpgroups * kBlockRows;
  static constexpr int kThreads = 128 * (kWarpgroups + 1);
  static constexpr int kConsumerRegisters = kWarpgroups == 3 ? 160 : 240;
  static constexpr int kProducerRegisters = kWarpgroups == 3 ? 32 : 24;

  /// Keys of a tile: as many as the registers of a consumer hold beside O. Whole blocks of permuted keys.
  static constexpr int kKeys = kHeadDim == 256                ? 64
                               : kPattern == Pattern::kMasked ? 64
                               : kHeadDim == 64               ? 128
                               : kSparse                      ? 96
                                                              : 80;
  static constexpr int kStages = kHeadDim == 256 ? 2 : 3;  ///< of K, and as many of V

  static constexpr int kPanels = (kHeadDim + 63) / 64;  ///< of 64 elements = 128 bytes, the width of the swizzle
  static constexpr int kRowPanelBytes = kRows * 128;
  static constexpr int kKeyPanelBytes = kKeys * 128;
  static constexpr int kQueryBytes = kPanels * kRowPanelBytes;
  static constexpr int kStageBytes = kPanels * kKeyPanelBytes;

  static constexpr int kScores = kKeys / 2;      ///< of a thread: two rows of its quad
  static constexpr int kOutputs = kHeadDim / 2;  ///< likewise

  /// Keys are permuted within blocks of so many, so that one thread owns whole groups of 4 (8): logical key
  /// (kBlock/4)c + 2h + e lies in row 8h + 2c + e of its block.
  static constexpr bool kPermutedKeys = kPattern != Pattern::kDense;
  static constexpr int kBlock = kSparse ? 16 : 32;
  /// A compressed A operand expects V in natural order, a dense one in that of the scores.
  static constexpr bool kPermutedValues = kPattern == Pattern::kMasked;

  /// For the rows that the biased reference cannot hold: the same tiles in the same shared memory.
  using Rescue =
      KernelTraits<Element, kHeadDim, kPattern == Pattern::kSparse2of4Unordered ? Pattern::kSparse2of4 : kPattern,
                   Reference::kRescue>;

  static_assert(kKeys % 16 == 0 && (!kPermutedKeys || kKeys % kBlock == 0) && (!kSparse || kKeys % 32 == 0));
};

/// One tile as the scheduler hands it to the other warps.
struct TileSlot {
  int tile;          ///< its number; -1: no more
  int head;          ///< query head
  int map;           ///< index of the tensor maps, in units of kMapKinds
  int position;      ///< absolute position of the CTA's first row
  int begin, end;    ///< key tiles
  unsigned flagged;  ///< 1: some row of it needs true maxima, and it is in the rescue list of the CTA
  SequenceRows rows;
};

constexpr int kSlots = 4;

template <typename Traits>
struct alignas(1024) SharedMemory {
  std::uint8_t q[Traits::kQueryBytes];
  std::uint8_t k[Traits::kStages][Traits::kStageBytes];
  std::uint8_t v[Traits::kStages][Traits::kStageBytes];
  std::uint64_t q_full[Traits::kWarpgroups], q_empty[Traits::kWarpgroups];
  std::uint64_t k_full[Traits::kStages], k_empty[Traits::kStages];
  std::uint64_t v_full[Traits::kStages], v_empty[Traits::kStages];
  std::uint64_t slot_full[kSlots];
  TileSlot slots[kSlots];
  std::uint64_t all_done, restarted;  ///< between the tiles of the counter and those of the rescue list
  int rescue_head;  ///< tile of this CTA that needs true maxima; Schedule::rescue_next has the others; -1: none
};

/// The kernel's arguments beside the tensor map of Q.
struct KernelArguments {
  AttentionParams params;
  Schedule schedule;
  float scale_log2;              ///< softmax scale times log2(e)
  float one;                     ///< 1.0f, unknown to the compiler (select_2of4_unordered)
  int section_heads;             ///< heads whose keys and values share the L2 cache; they are worked on together
  VisibleBlocks visible_blocks;  ///< with statistics
};

/// Marks a row whose sum is out of range, in its log-sum-exp, until it has been redone.
constexpr unsigned kMarkedRow = 0x7fc0dead;

}  // namespace modelopt::kernels::cuda::sm90
