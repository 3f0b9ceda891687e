#include "kernels/cpu/backward_run.h"

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <atomic>

#include "kernels/cpu/backward_tasks.h"
#include "kernels/cpu/cpu_call.h"

namespace modelopt::kernels::cpu {
namespace {

const BackwardKernels& all_kernels() {
#ifdef MODELOPT_CPU_X86
  return kernels_of_this_cpu(kPortableBackward, kAvx2Backward, kAvx512Backward);
#else
  return kPortableBackward;
#endif
}

/// Where to add up the gradient of keys: itself where it has the scores' type, else a tensor in that type.
at::Tensor accumulator(const at::Tensor& gradient, at::ScalarType dtype) {
  if (!gradient.defined()) return {};
  if (gradient.scalar_type() == dtype) return gradient.zero_();
  return at::zeros(gradient.sizes(), gradient.options().dtype(dtype));
}

void* data_of(const at::Tensor& t) { return t.defined() ? t.data_ptr() : nullptr; }

void run_tasks(const BackwardCall& call, const BackwardKernel& kernel, const BackwardTasks& all) {
  const std::vector<BackwardTask>& tasks = all.tasks;
  std::int64_t lanes = 0;
  for (const BackwardTask& task : tasks) lanes = std::max(lanes, task.rows.row_count * task.rows.head_count);
  const std::size_t scratch_bytes = kernel.scratch_bytes(call.forward.head_dim, lanes);
  const auto workers = std::min<std::int64_t>(at::get_num_threads(), static_cast<std::int64_t>(tasks.size()));
  std::atomic<std::size_t> next{0};
  at::parallel_for(0, workers, 1, [&](std::int64_t, std::int64_t) {
    const ScratchBuffer scratch(scratch_bytes);
    for (std::size_t i = next++; i < tasks.size(); i = next++) kernel.run(call, tasks[i], scratch.get());
  });
}

}  // namespace

void run_backward(const BackwardProblem& problem) {
  const AttentionProblem& forward = problem.forward;
  const at::ScalarType sum_dtype = forward.logsumexp.scalar_type();
  if (problem.grad_q.defined()) problem.grad_q.zero_();  // rows of no sequence
  const at::Tensor grad_k = accumulator(problem.grad_k, sum_dtype);
  const at::Tensor grad_v = accumulator(problem.grad_v, sum_dtype);
  const BackwardCall call{.forward = call_of(forward),
                          .grad_output = data_of(problem.grad_output),
                          .grad_logsumexp = data_of(problem.grad_logsumexp),
                          .grad_q = data_of(problem.grad_q),
                          .grad_k = data_of(grad_k),
                          .grad_v = data_of(grad_v),
                          .num_kv_heads = forward.k.size(1)};
  const BackwardKernel& kernel = kernel_for(all_kernels(), forward.q.scalar_type());
  run_tasks(call, kernel, backward_tasks(forward, kernel.block_lanes));
  if (grad_k.defined() && !grad_k.is_same(problem.grad_k)) problem.grad_k.copy_(grad_k);
  if (grad_v.defined() && !grad_v.is_same(problem.grad_v)) problem.grad_v.copy_(grad_v);
}

}  // namespace modelopt::kernels::cpu
