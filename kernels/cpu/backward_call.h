// What passes between the backend and the backward kernels built per instruction set: plain data only, as in
// attention_call.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention_call.h"

namespace modelopt::kernels::cpu {

/// BackwardProblem without its tensors. T is the scores' type: fp32, or fp64 for fp64 inputs.
struct BackwardCall {
  AttentionCall forward;       ///< with the forward's output and logsumexp; mask and statistics are not used
  const void* grad_output;     ///< [total_q, num_heads, D], q's type, or null: zero
  const void* grad_logsumexp;  ///< [total_q, num_heads], T, or null: zero
  void* grad_q;                ///< [total_q, num_heads, D], q's type, or null: not wanted
  void* grad_k;                ///< T [total_kv, num_kv_heads, D] to add to, or null: not wanted
  void* grad_v;                ///< likewise
  std::int64_t num_kv_heads;
};

class KeyTurn;

/// Some consecutive query rows of one sequence for the heads of one key head, and its turn among those that add to the
/// same keys.
struct BackwardTask {
  AttentionTask rows;
  KeyTurn* turn;
};

/// Blocks until all earlier tasks have added to keys before `end`; then this task may.
void await_turn(const KeyTurn& turn, std::int64_t end);
/// Says that this task has added to keys before `end` all that it will. Its own turn for them has come.
void pass_turn(KeyTurn& turn, std::int64_t end);

/// The kernel for one element type on one instruction set.
struct BackwardKernel {
  int block_lanes;  ///< as in AttentionKernel
  std::size_t (*scratch_bytes)(int head_dim, std::int64_t lanes);
  /// Writes grad_q of the task's rows and adds to grad_k and grad_v of its keys, in its turn.
  void (*run)(const BackwardCall& call, const BackwardTask& task, void* scratch);
};

struct BackwardKernels {
  BackwardKernel float32, bfloat16, float16, float64;
};

extern const BackwardKernels kPortableBackward;
#ifdef MODELOPT_CPU_X86
extern const BackwardKernels kAvx2Backward;
extern const BackwardKernels kAvx512Backward;
#endif

}  // namespace modelopt::kernels::cpu
