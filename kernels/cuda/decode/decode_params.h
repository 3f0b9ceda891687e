// Decode in two kernels: split_keys (with skip-softmax: skip_keys) attends to the keys in chunks, merge_chunks puts the
// chunks of a row together.
//
// A chunk is 2^kChunkKeysLog2 consecutive keys of one sequence for one key head, counted from the sequence's first key.
// One warp computes it for 16 of the query rows of all query heads that read the key head (a row block; with more rows
// several warps read the same keys, one from memory and the others from the L2 cache), and leaves the rows' maxima,
// sums and unnormalised outputs in the workspace. Chunks and their order depend on the sequence alone, so that a row
// has the same bits whatever else is in the batch, however loose the bounds are and however many multiprocessors there
// are (but where so many sequences share keys that chunks are enlarged, see DecodeParams::capacity).
#pragma once

#include <vector_types.h>  // float2

#include "kernels/cuda/attention_params.h"

namespace modelopt::kernels::cuda::decode {

inline constexpr float kLog2E = 1.4426950408889634f;
/// 256 keys: few enough that one long sequence gives work to every warp of a GPU, and so many that a chunk's partial
/// results are a small part of what it reads.
inline constexpr int kChunkKeysLog2 = 8;
inline constexpr int kRowBlock = 16;  ///< rows of one mma

struct DecodeParams {
  AttentionParams attention;
  int group = 1;       ///< query heads per key head; row i * group + g of a key head is query row i, head g
  int row_blocks = 1;  ///< of a key head
  int rows = 1;        ///< of a row block: max_q_len * group, at most kRowBlock
  int parts = 1;       ///< of a chunk: kv_heads * row_blocks; part h * row_blocks + b is block b of key head h
  /// Chunks (of all parts) that the workspace has room for: the most that the bounds allow, or, if that is less, the
  /// most of sequences that share no keys. Then, should sequences share keys, chunks may have to be larger.
  int capacity = 0;
  bool all_fit = true;           ///< whatever the lengths are
  int* chunk_offsets = nullptr;  ///< [batch + 1], written by split_keys: chunks of the sequences before
  /// [capacity, parts, rows, head_dim]; with skip-softmax not written where no row of a chunk has weights
  float* partial_output = nullptr;
  float2* partial_softmax = nullptr;  ///< [capacity, parts, rows]: row maximum of the scores, sum of the weights
  // With skip-softmax (skip_keys.cuh); everything fits then, and all bits are set beforehand.
  unsigned* last_work = nullptr;   ///< chunk * parts + part that was taken last
  float* chunk_maxima = nullptr;   ///< [capacity, parts, rows]: largest scores
  float* prefix_maxima = nullptr;  ///< likewise, of the chunk and those before it
};

/// Keys [begin, end) of a sequence.
struct KeySpan {
  int begin = 0;
  int end = 0;
};

/// The keys that some row of the sequence sees by position.
MODELOPT_HOST_DEVICE constexpr KeySpan visible_keys(const AttentionParams& p, const SequenceRange& s) {
  const int first_position = s.k_len - s.q_len;  // of the first row; the last row stands at the last key
  const int begin = p.sliding_window > 0 ? first_position - p.sliding_window + 1 : 0;
  return {begin > 0 ? begin : 0, s.q_len > 0 ? s.k_len : 0};
}

MODELOPT_HOST_DEVICE constexpr int first_chunk(KeySpan keys, int chunk_log2) { return keys.begin >> chunk_log2; }

MODELOPT_HOST_DEVICE constexpr int chunk_count(KeySpan keys, int chunk_log2) {
  return keys.end > keys.begin ? ((keys.end - 1) >> chunk_log2) - first_chunk(keys, chunk_log2) + 1 : 0;
}

}  // namespace modelopt::kernels::cuda::decode
