#include "kernels/cpu/backward_tasks.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "kernels/skip.h"

namespace modelopt::kernels::cpu {
namespace {

/// Blocks of lanes per task: the more, the more often a tile of K and V is used once it is converted; the fewer, the
/// less scratch.
constexpr std::int64_t kBlocksPerTask = 4;

constexpr std::int64_t floor_div(std::int64_t x, std::int64_t y) { return x / y - (x % y < 0); }

/// The key after the last one that the task may see.
std::int64_t key_end(const AttentionTask& task, bool is_causal) {
  const std::int64_t last = task.row_begin + task.row_count - 1 + task.k_len - task.q_len;  // position of the last row
  return is_causal ? std::clamp<std::int64_t>(last + 1, 0, task.k_len) : task.k_len;
}

/// For each sequence the number of its chain: sequences that share keys, directly or through others, are in one.
struct Chains {
  std::vector<std::size_t> of_sequence;
  std::vector<bool> shared;  ///< by chain: more than one sequence
};

Chains find_chains(const std::vector<Sequence>& sequences) {
  std::vector<std::size_t> order(sequences.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return sequences[a].k_start < sequences[b].k_start; });
  Chains chains{std::vector<std::size_t>(sequences.size()), {}};
  std::int64_t end = 0;
  for (const std::size_t i : order) {
    const bool empty = sequences[i].k_len == 0;  // adds nothing, wherever it is
    const bool shares = !empty && sequences[i].k_start < end;
    if (chains.shared.empty() || (!empty && !shares)) chains.shared.push_back(false);
    if (shares) chains.shared.back() = true;
    chains.of_sequence[i] = chains.shared.size() - 1;
    end = std::max(end, sequences[i].k_start + sequences[i].k_len);
  }
  return chains;
}

/// Rows [begin, end) of the task's sequence, for all heads of each key head together, or one head after the other.
void add_rows(const AttentionProblem& problem, AttentionTask task, std::int64_t begin, std::int64_t end,
              bool heads_apart, std::vector<AttentionTask>& tasks) {
  const std::int64_t group = problem.q.size(1) / problem.k.size(1);
  task.row_begin = begin;
  task.row_count = end - begin;
  task.head_count = heads_apart ? 1 : group;
  for (std::int64_t head = 0; head < problem.q.size(1); head += task.head_count) {
    task.head_begin = head;
    task.kv_head = head / group;
    tasks.push_back(task);
  }
}

/// The rows of a sequence from the last to the first, which see the fewest keys: chains must descend.
void add_sequence(const AttentionProblem& problem, const AttentionTask& task, std::int64_t rows_per_task,
                  std::vector<AttentionTask>& tasks) {
  const bool skips = task.log_lambda > -std::numeric_limits<float>::infinity();
  const std::int64_t offset = task.k_len - task.q_len;  // position of row 0
  for (std::int64_t end = task.q_len; end > 0;) {
    const std::int64_t block_begin = floor_div(end - 1 + offset, problem.skip_br) * problem.skip_br - offset;
    const std::int64_t begin = std::max<std::int64_t>(0, skips ? block_begin : end - rows_per_task);
    add_rows(problem, task, begin, end, /*heads_apart=*/skips, tasks);
    end = begin;
  }
}

}  // namespace

BackwardTasks backward_tasks(const AttentionProblem& problem, int block_lanes) {
  BackwardTasks result;
  const std::int64_t kv_heads = problem.k.size(1);
  if (problem.q.size(1) == 0) return result;
  const std::int64_t group = problem.q.size(1) / kv_heads;
  const std::int64_t rows_per_task = std::max<std::int64_t>(1, kBlocksPerTask * block_lanes / group);

  std::vector<AttentionTask> tasks;
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
    add_sequence(problem, task, rows_per_task, tasks);
  }
  // Stable, and by a number that never ascends along the rows of a sequence: chains keep their order.
  std::stable_sort(tasks.begin(), tasks.end(), [&](const AttentionTask& a, const AttentionTask& b) {
    return key_end(a, problem.is_causal) > key_end(b, problem.is_causal);
  });

  const Chains chains = find_chains(problem.sequences);
  std::vector<const KeyTurn*> last(chains.shared.size() * static_cast<std::size_t>(kv_heads), nullptr);
  for (const AttentionTask& task : tasks) {
    const std::size_t chain = chains.of_sequence[static_cast<std::size_t>(task.sequence)];
    const KeyTurn*& previous =
        last[chain * static_cast<std::size_t>(kv_heads) + static_cast<std::size_t>(task.kv_head)];
    KeyTurn& turn = result.turns.emplace_back(previous);
    if (chains.shared[chain]) turn.wait_for_all();
    result.tasks.push_back({task, &turn});
    previous = &turn;
  }
  return result;
}

}  // namespace modelopt::kernels::cpu
