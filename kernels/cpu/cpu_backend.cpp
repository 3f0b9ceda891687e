// The fast CPU backend: cuts the problem into tasks and lets threads take them, on the widest instruction set there is.
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/attention_call.h"
#include "kernels/cpu/attention_tasks.h"
#include "kernels/cpu/backward_run.h"
#include "kernels/cpu/cpu_call.h"
#include "kernels/skip.h"

namespace modelopt::kernels {
namespace cpu {
namespace {

const AttentionKernels& forward_kernels() {
#ifdef MODELOPT_CPU_X86
  return kernels_of_this_cpu(kPortableKernels, kAvx2Kernels, kAvx512Kernels);
#else
  return kPortableKernels;
#endif
}

bool is_supported(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf || dtype == at::kDouble;
}

/// Rows of no sequence: output and mask 0, log-sum-exp -inf.
void fill_rows_of_no_sequence(const AttentionProblem& problem) {
  std::vector<std::pair<std::int64_t, std::int64_t>> covered;
  for (const Sequence& sequence : problem.sequences) {
    if (sequence.q_len > 0) covered.emplace_back(sequence.q_start, sequence.q_start + sequence.q_len);
  }
  std::sort(covered.begin(), covered.end());
  const std::int64_t total = problem.q.size(0);
  covered.emplace_back(total, total);
  std::int64_t free_begin = 0;
  for (const auto& [begin, end] : covered) {
    if (free_begin < begin) {
      problem.output.narrow(0, free_begin, begin - free_begin).zero_();
      problem.logsumexp.narrow(0, free_begin, begin - free_begin).fill_(-std::numeric_limits<double>::infinity());
      if (problem.mask.defined()) problem.mask.narrow(0, free_begin, begin - free_begin).zero_();
    }
    free_begin = end;
  }
}

void add_up_stats(const std::vector<AttentionTask>& tasks, const std::vector<AttentionStats>& task_stats,
                  const at::Tensor& stats) {
  stats.zero_();
  auto* const data = stats.data_ptr<std::int64_t>();
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    std::int64_t* const row = data + (tasks[i].sequence * stats.size(1) + tasks[i].head_begin) * 4;
    row[0] += task_stats[i].blocks_visible;
    row[1] += task_stats[i].blocks_skipped;
    row[2] += task_stats[i].pairs_visible;
    row[3] += task_stats[i].pairs_attended;
  }
}

/// Runs body(task's index, worker's scratch) for all tasks; threads take the next free one.
template <typename Body>
void for_each_task(const std::vector<AttentionTask>& tasks, const AttentionKernel& kernel, int head_dim, Body body) {
  std::int64_t lanes = 0;
  for (const AttentionTask& task : tasks) lanes = std::max(lanes, task.row_count * task.head_count);
  const std::size_t scratch_bytes = kernel.scratch_bytes(head_dim, lanes);
  const auto workers = std::min<std::int64_t>(at::get_num_threads(), static_cast<std::int64_t>(tasks.size()));
  std::atomic<std::size_t> next{0};
  at::parallel_for(0, workers, 1, [&](std::int64_t, std::int64_t) {
    const ScratchBuffer scratch(scratch_bytes);
    for (std::size_t i = next++; i < tasks.size(); i = next++) body(i, scratch.get());
  });
}

/// counts [B, Hq, T, 2] from those of the tasks, each 1 + T: blocks visible, and blocks skipped by each trial.
void add_up_counts(const std::vector<AttentionTask>& tasks, const std::vector<std::int64_t>& task_counts,
                   const at::Tensor& counts) {
  counts.zero_();
  auto* const data = counts.data_ptr<std::int64_t>();
  const std::int64_t trials = counts.size(2);
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    const std::int64_t* const of_task = task_counts.data() + static_cast<std::int64_t>(i) * (1 + trials);
    std::int64_t* const of_head = data + (tasks[i].sequence * counts.size(1) + tasks[i].head_begin) * trials * 2;
    for (std::int64_t t = 0; t < trials; ++t) {
      of_head[2 * t] += of_task[0];
      of_head[2 * t + 1] += of_task[1 + t];
    }
  }
}

}  // namespace

class CpuBackend final : public Backend {
 public:
  [[nodiscard]] std::string_view name() const override { return "cpu"; }
  [[nodiscard]] std::optional<std::string> unavailable() const override { return std::nullopt; }

  [[nodiscard]] std::optional<std::string> unsupported(const AttentionTraits& traits) const override {
    if (traits.device != c10::DeviceType::CPU) return "runs on CPU tensors only";
    if (!is_supported(traits.dtype)) return "takes fp32, fp16, bf16 and fp64";
    return std::nullopt;
  }

  [[nodiscard]] std::optional<std::string> unsupported_backward(const AttentionTraits& traits) const override {
    return unsupported(traits);
  }

  void backward(const BackwardProblem& problem) const override { run_backward(problem); }

  void run(const AttentionProblem& problem) const override {
    fill_rows_of_no_sequence(problem);
    const AttentionKernel& kernel = kernel_for(forward_kernels(), problem.q.scalar_type());
    const AttentionCall call = call_of(problem);
    const bool counting = problem.stats.defined();
    const auto tasks = attention_tasks(problem, kernel.block_lanes, at::get_num_threads(), counting);
    std::vector<AttentionStats> stats(counting ? tasks.size() : 0);
    for_each_task(tasks, kernel, call.head_dim, [&](std::size_t i, void* scratch) {
      kernel.run(call, tasks[i], scratch, counting ? &stats[i] : nullptr);
    });
    if (counting) add_up_stats(tasks, stats, problem.stats);
  }

  [[nodiscard]] std::optional<std::string> unsupported_calibrate(const AttentionTraits& traits) const override {
    return unsupported(traits);
  }

  void calibrate(const AttentionProblem& problem, const std::vector<double>& trials,
                 const at::Tensor& counts) const override {
    fill_rows_of_no_sequence(problem);
    const AttentionKernel& kernel = kernel_for(forward_kernels(), problem.q.scalar_type());
    const AttentionCall call = call_of(problem);
    std::vector<float> log_lambda(trials.size());
    std::transform(trials.begin(), trials.end(), log_lambda.begin(), skip_log_lambda);
    const auto tasks = attention_tasks(problem, kernel.block_lanes, at::get_num_threads(), /*by_query_block=*/true);
    std::vector<std::int64_t> task_counts(tasks.size() * (1 + trials.size()));
    for_each_task(tasks, kernel, call.head_dim, [&](std::size_t i, void* scratch) {
      std::int64_t* const of_task = task_counts.data() + i * (1 + trials.size());
      kernel.calibrate(call, tasks[i], scratch,
                       {.log_lambda = log_lambda.data(),
                        .count = static_cast<std::int64_t>(trials.size()),
                        .blocks_skipped = of_task + 1,
                        .blocks_visible = of_task});
    });
    add_up_counts(tasks, task_counts, counts);
  }
};

}  // namespace cpu

std::unique_ptr<Backend> make_cpu_backend() { return std::make_unique<cpu::CpuBackend>(); }

}  // namespace modelopt::kernels
