// What passes between the backend (built for any CPU) and the kernels built per instruction set: plain data only.
//
// Files built with -mavx… must not emit inline functions that other files emit too: the linker keeps one copy, and it
// might be the one that an older CPU cannot run. So this header has no ATen type, and the kernels are templates over a
// vector type of their own instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace modelopt::kernels::cpu {

/// Keys per tile. Tiles start at multiples of it, counted from the sequence's own first key: with that a row's order of
/// accumulation depends on nothing but its own keys.
inline constexpr int kKeyTile = 64;

/// Rows of a packed [rows, heads, D] tensor; strides in elements.
struct PackedRows {
  const void* data;
  std::int64_t row_stride;
  std::int64_t head_stride;
};

/// One call of the operator: AttentionProblem without its tensors.
struct AttentionCall {
  PackedRows q, k, v;
  int head_dim;
  std::int64_t num_heads;
  bool is_causal;
  double softmax_scale;
  int sparsity_n;
  int sparsity_m;
  std::int64_t num_sink_tokens;
  std::int64_t dense_window_size;
  std::int64_t sliding_window;
  std::int64_t skip_bc;
  void* output;        ///< [total_q, num_heads, D], q's type
  void* logsumexp;     ///< [total_q, num_heads], the scores' type
  std::uint8_t* mask;  ///< [total_q, num_heads, mask_bytes] or null
  std::int64_t mask_bytes;
};

/// A unit of work: some consecutive query rows of one sequence, for some query heads of one key head.
///
/// With skip-softmax or statistics it is the rows of one query block and a single head.
struct AttentionTask {
  std::int64_t sequence;                        ///< index in the batch
  std::int64_t q_start, q_len, k_start, k_len;  ///< its rows and keys
  std::int64_t row_begin, row_count;            ///< query rows, counted from q_start
  std::int64_t head_begin, head_count;          ///< query heads
  std::int64_t kv_head;
  bool sparse_nm;
  float log_lambda;  ///< ln(lambda) of skip-softmax; -inf = off
};

/// The operator's statistics of one task.
struct AttentionStats {
  std::int64_t blocks_visible = 0;
  std::int64_t blocks_skipped = 0;
  std::int64_t pairs_visible = 0;
  std::int64_t pairs_attended = 0;
};

/// Thresholds of attention_calibrate, and what one task counts.
struct SkipTrials {
  const float* log_lambda;       ///< [count] ln(lambda)
  std::int64_t count;
  std::int64_t* blocks_skipped;  ///< [count], added to
  std::int64_t* blocks_visible;  ///< added to
};

/// The kernel for one element type on one instruction set.
struct AttentionKernel {
  int block_lanes;  ///< (row, head) pairs that are computed at once; a task is best a multiple of it
  /// Bytes of scratch, aligned to 64, that a task of `lanes` (row, head) pairs needs.
  std::size_t (*scratch_bytes)(int head_dim, std::int64_t lanes);
  /// Writes output, logsumexp and mask of the task's rows, and `stats` unless it is null.
  void (*run)(const AttentionCall& call, const AttentionTask& task, void* scratch, AttentionStats* stats);
  /// Runs a dense task of one query block and head, to the bits of `run`, and counts.
  void (*calibrate)(const AttentionCall& call, const AttentionTask& task, void* scratch, const SkipTrials& trials);
};

/// The kernels of one instruction set.
struct AttentionKernels {
  AttentionKernel float32, bfloat16, float16, float64;
};

extern const AttentionKernels kPortableKernels;
#ifdef MODELOPT_CPU_X86
extern const AttentionKernels kAvx2Kernels;
extern const AttentionKernels kAvx512Kernels;
#endif

/// Whether all rows that see a key of a block vote for skipping it (kernels/skip.h). sees[i] is 0 for a row that sees
/// none; block_max[i] and running_max[i] are the largest unscaled scores in the block and before it.
[[nodiscard]] bool every_row_votes_skip(const float* block_max, const float* running_max, const float* sees,
                                        std::int64_t rows, float scale, float log_lambda);
[[nodiscard]] bool every_row_votes_skip(const double* block_max, const double* running_max, const double* sees,
                                        std::int64_t rows, double scale, float log_lambda);

}  // namespace modelopt::kernels::cpu
