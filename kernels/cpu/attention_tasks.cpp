#include "kernels/cpu/attention_tasks.h"

#include <algorithm>

#include "kernels/skip.h"

namespace modelopt::kernels::cpu {
namespace {

/// Blocks of lanes per task: the more, the more often a tile of K and V is used once it is converted.
constexpr std::int64_t kBlocksPerTask = 8;
/// Tasks per thread to aim for where a problem is small.
constexpr std::int64_t kTasksPerThread = 4;

constexpr std::int64_t floor_div(std::int64_t x, std::int64_t y) { return x / y - (x % y < 0); }

/// Pairs that the task computes, visible or not.
std::int64_t cost(const AttentionTask& task, const AttentionProblem& problem) {
  const std::int64_t last = task.row_begin + task.row_count - 1 + task.k_len - task.q_len;  // position of the last row
  const std::int64_t end = problem.is_causal ? std::clamp<std::int64_t>(last + 1, 0, task.k_len) : task.k_len;
  const std::int64_t keys = problem.sliding_window > 0 ? std::min(end, problem.sliding_window + task.row_count) : end;
  return task.row_count * task.head_count * keys;
}

/// Rows of all heads that share a key head, as many as fill the blocks; fewer where there are too few for all threads.
std::int64_t rows_per_task(const AttentionProblem& problem, std::int64_t heads, int block_lanes, int threads) {
  std::int64_t total_rows = 0;
  for (const Sequence& sequence : problem.sequences) total_rows += sequence.q_len;
  const std::int64_t full = std::max<std::int64_t>(1, kBlocksPerTask * block_lanes / heads);
  const std::int64_t one_block = std::max<std::int64_t>(1, block_lanes / heads);
  const std::int64_t share = total_rows * problem.k.size(1) / (kTasksPerThread * threads);
  return std::clamp(share, std::min(one_block, full), full);
}

void add_query_blocks(const AttentionProblem& problem, AttentionTask task, std::vector<AttentionTask>& tasks) {
  const std::int64_t heads_per_kv_head = problem.q.size(1) / problem.k.size(1);
  const std::int64_t offset = task.k_len - task.q_len;  // position of row 0
  std::int64_t row = 0;
  while (row < task.q_len) {
    const std::int64_t next = (floor_div(row + offset, problem.skip_br) + 1) * problem.skip_br - offset;
    task.row_begin = row;
    task.row_count = std::min(next, task.q_len) - row;
    for (std::int64_t head = 0; head < problem.q.size(1); ++head) {
      task.head_begin = head;
      task.head_count = 1;
      task.kv_head = head / heads_per_kv_head;
      tasks.push_back(task);
    }
    row = next;
  }
}

void add_row_ranges(const AttentionProblem& problem, std::int64_t rows, AttentionTask task,
                    std::vector<AttentionTask>& tasks) {
  task.head_count = problem.q.size(1) / problem.k.size(1);
  for (std::int64_t row = 0; row < task.q_len; row += rows) {
    task.row_begin = row;
    task.row_count = std::min(rows, task.q_len - row);
    for (std::int64_t kv_head = 0; kv_head < problem.k.size(1); ++kv_head) {
      task.head_begin = kv_head * task.head_count;
      task.kv_head = kv_head;
      tasks.push_back(task);
    }
  }
}

}  // namespace

std::vector<AttentionTask> attention_tasks(const AttentionProblem& problem, int block_lanes, int threads,
                                           bool by_query_block) {
  std::vector<AttentionTask> tasks;
  if (problem.q.size(1) == 0) return tasks;
  const std::int64_t rows = rows_per_task(problem, problem.q.size(1) / problem.k.size(1), block_lanes, threads);
  for (std::size_t i = 0; i < problem.sequences.size(); ++i) {
    const Sequence& sequence = problem.sequences[i];
    AttentionTask task{};
    task.sequence = static_cast<std::int64_t>(i);
    task.q_start = sequence.q_start;
    task.q_len = sequence.q_len;
    task.k_start = sequence.k_start;
    task.k_len = sequence.k_len;
    task.sparse_nm = sequence.sparse_nm;
    task.log_lambda = skip_log_lambda(sequence.lambda);
    if (sequence.lambda > 0 || by_query_block) {
      add_query_blocks(problem, task, tasks);
    } else {
      add_row_ranges(problem, rows, task, tasks);
    }
  }
  std::stable_sort(tasks.begin(), tasks.end(),
                   [&](const AttentionTask& a, const AttentionTask& b) { return cost(a, problem) > cost(b, problem); });
  return tasks;
}

}  // namespace modelopt::kernels::cpu
