// Which CTA works on which rows: written on the GPU by prepare(), because the lengths are there.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "kernels/cuda/attention_params.h"

namespace modelopt::kernels::cuda::sm90 {

constexpr int kBlockRows = 64;  ///< query rows of one warpgroup; blocks lie at multiples of 64 of the absolute position

/// Query rows of one CTA: `position` is the absolute position of its first row, a multiple of kBlockRows. It may lie
/// before the sequence's first row, because the last tile ends with the sequence's last block.
struct Tile {
  int sequence;
  int position;
};

/// A checked sequence as the attention kernel needs it.
struct SequenceRows {
  int q_base;      ///< row of q at position 0: q_start - (k_len - q_len)
  int first;       ///< position of the first row that sees a key; later rows up to k_len - 1 do as well
  int k_len;       ///< 0: nothing to do
  int dense_keys;  ///< keys below are dense: num_sink_tokens, or all where N:M does not apply
};

struct Counters {
  unsigned tiles;      ///< of one head
  unsigned next_tile;  ///< next one to be handed out, less the CTAs of the grid
};

/// Tensor maps of one key head of one sequence. A "pair" map loads two neighbouring keys: the last, incomplete tile is
/// put together from them where keys are permuted, because a permuted box cannot end within a block of keys.
enum MapKind : int { kKeys, kKeyPairs, kValues, kValuePairs, kMapKinds };

/// Device memory of one launch.
struct Schedule {
  CUtensorMap* maps = nullptr;  ///< [batch, kv_heads, kMapKinds]
  Counters* counters = nullptr;  ///< one
  SequenceRows* rows = nullptr;  ///< [batch]
  Tile* tiles = nullptr;  ///< [max_tiles], longest first
  int* rescue_next = nullptr;  ///< [max_tiles * heads] after a tile that wants exact maxima, the CTA's next one
  int max_tiles = 0;
};

/// The maps of the tensors' first rows, to be moved to each sequence's.
struct MapTemplates {
  CUtensorMap maps[kMapKinds];
  std::int64_t bytes_per_row[kMapKinds];
  std::int64_t bytes_per_head[kMapKinds];
  const void* base[kMapKinds];
  int block_keys[kMapKinds];  ///< keys of one step of the outermost dimension: 1, or a block of permuted keys
};

/// Enqueues the kernel that fills `schedule` for CTAs of `warpgroups` blocks of rows, and the rows that no sequence
/// owns.
void prepare(const AttentionParams& params, const Schedule& schedule, const MapTemplates& templates, int warpgroups,
             cudaStream_t stream);

}  // namespace modelopt::kernels::cuda::sm90
