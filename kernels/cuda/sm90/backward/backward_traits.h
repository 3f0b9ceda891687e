// Tile sizes and shared memory of the Hopper backward kernel, by element type, head dimension and side.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/backward/backward_params.h"

namespace modelopt::kernels::cuda::sm90 {

/// Who says which keys a row attends to.
enum class Attended {
  kByPosition,   ///< dense attention
  kByMask,       ///< the mask's bits
  kBySelection,  ///< 2:4 and 1:4, found again from the scores and written to the mask; where rows are queries
};

/// Keys are permuted within blocks of so many where they are selected, as in the forward: a thread owns whole groups.
constexpr int kSelectionBlock = 16;

/// kRowsAreQueries: gradients of queries, columns are keys; otherwise gradients of keys, columns are queries.
template <typename Element_, int kHeadDim_, bool kRowsAreQueries_, Attended kAttended_>
struct BackwardTraits {
  using Element = Element_;
  static constexpr int kHeadDim = kHeadDim_;  ///< 64 or 128; smaller ones are padded with zeros by the copies
  static constexpr bool kRowsAreQueries = kRowsAreQueries_;
  static constexpr Attended kAttended = kAttended_;
  static constexpr bool kMasked = kAttended == Attended::kByMask;
  static constexpr bool kSelects = kAttended == Attended::kBySelection;
  static_assert(kRowsAreQueries || !kSelects);

  static constexpr int kWarpgroups = 2;  ///< consumers
  static constexpr int kWarpgroupRows = 64;
  static constexpr int kRows = kWarpgroups * kWarpgroupRows;
  static constexpr int kThreads = 128 * (kWarpgroups + 1);
  static constexpr int kConsumerRegisters = 240;
  static constexpr int kProducerRegisters = 24;
  /// A CTA starts with as many registers as it has afterwards: more would be waited for forever.
  static constexpr int kStartRegisters = 65536 / kThreads / 8 * 8;
  static_assert(kWarpgroups * kConsumerRegisters + kProducerRegisters <= kStartRegisters * (kWarpgroups + 1));

  static constexpr int kColumns = !kRowsAreQueries ? 64 : kHeadDim == 64 ? 128 : 96;
  static constexpr int kWords = kColumns / 32;  ///< of attended bits
  static constexpr int kStages = kRowsAreQueries && kHeadDim == 128 ? 3 : 4;

  static constexpr int kPanels = kHeadDim / 64;  ///< of 64 elements = 128 bytes, the width of the swizzle
  static constexpr int kRowPanelBytes = kRows * 128;
  static constexpr int kColumnPanelBytes = kColumns * 128;
  static constexpr int kRowTileBytes = kPanels * kRowPanelBytes;
  static constexpr int kColumnTileBytes = kPanels * kColumnPanelBytes;

  static constexpr int kScores = kColumns / 2;     ///< of a thread: two rows of its quad
  static constexpr int kWeights = kColumns / 4;    ///< registers of the rounded weights: operand A
  static constexpr int kGradients = kHeadDim / 2;  ///< of a thread
};

/// Tensor maps, cut to a sequence's rows: boxes of 64 elements of 64 rows or kColumns columns. Columns that are
/// selected are permuted and have maps for each key head; "pair" maps load two neighbouring ones (producers.cuh).
enum BackwardMapKind : int {
  kRowMap,
  kSecondRowMap,
  kColumnMap,
  kSecondColumnMap,
  kColumnPairMap,
  kSecondColumnPairMap,
  kBackwardMapKinds
};

template <typename Traits>
struct alignas(1024) BackwardShared {
  std::uint8_t rows[Traits::kRowTileBytes];                                ///< A: Q, or K
  std::uint8_t second_rows[Traits::kRowTileBytes];                         ///< A': dO, or V
  std::uint8_t columns[Traits::kStages][Traits::kColumnTileBytes];         ///< B: K, or Q
  std::uint8_t second_columns[Traits::kStages][Traits::kColumnTileBytes];  ///< B': V, or dO
  float logsumexp[Traits::kStages][Traits::kColumns];                      ///< of the columns, where they are queries
  float dot[Traits::kStages][Traits::kColumns];
  std::uint64_t rows_full;
  std::uint64_t full[Traits::kStages], empty[Traits::kStages];
};

struct BackwardArguments {
  BackwardParams params;
  const CUtensorMap* maps = nullptr;  ///< [batch, map_heads, kBackwardMapKinds]
  int map_heads = 1;                  ///< 1, or kv_heads where columns are selected
  float scale_log2 = 1.0f;            ///< softmax scale times log2(e)
  int row_tiles = 0;                  ///< of a sequence and head: enough for the longest
  int section_heads = 1;              ///< heads (of the rows) whose columns share the L2 cache, worked on together
};

}  // namespace modelopt::kernels::cuda::sm90
