// How a backward is cut into units of work, and in which order they add to the gradients of keys.
#pragma once

#include <deque>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/backward_call.h"
#include "kernels/cpu/backward_turn.h"

namespace modelopt::kernels::cpu {

struct BackwardTasks {
  std::vector<BackwardTask> tasks;  ///< to be started in this order: the longest first
  std::deque<KeyTurn> turns;        ///< one per task; they do not move
};

/// The tasks cover each query row of each sequence and head once. They depend on the problem alone, not on the number
/// of threads: grad_k and grad_v are sums over them. With skip-softmax a task is one query block of one head.
[[nodiscard]] BackwardTasks backward_tasks(const AttentionProblem& problem, int block_lanes);

}  // namespace modelopt::kernels::cpu
