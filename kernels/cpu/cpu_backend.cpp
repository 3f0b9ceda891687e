// The fast CPU backend: cuts the problem into tasks and lets threads take them, on the widest instruction set there is.
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/attention_call.h"
#include "kernels/cpu/attention_tasks.h"
#include "kernels/reference/reference_backward.h"

namespace modelopt::kernels {
namespace cpu {
namespace {

/// The kernels for the instruction set that ATen runs on (environment variable ATEN_CPU_CAPABILITY lowers it).
const AttentionKernels& kernels_of_this_cpu() {
#ifdef MODELOPT_CPU_X86
  static const std::string capability = at::get_cpu_capability();
  if (capability == "AVX512") return kAvx512Kernels;
  if (capability == "AVX2") return kAvx2Kernels;
#endif
  return kPortableKernels;
}

bool is_supported(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf || dtype == at::kDouble;
}

const AttentionKernel& kernel_for(at::ScalarType dtype) {
  const AttentionKernels& kernels = kernels_of_this_cpu();
  if (dtype == at::kDouble) return kernels.float64;
  if (dtype == at::kBFloat16) return kernels.bfloat16;
  return dtype == at::kHalf ? kernels.float16 : kernels.float32;
}

PackedRows rows_of(const at::Tensor& tensor) { return {tensor.const_data_ptr(), tensor.stride(0), tensor.stride(1)}; }

AttentionCall call_of(const AttentionProblem& problem) {
  const bool masked = problem.mask.defined();
  return {.q = rows_of(problem.q),
          .k = rows_of(problem.k),
          .v = rows_of(problem.v),
          .head_dim = static_cast<int>(problem.q.size(2)),
          .num_heads = problem.q.size(1),
          .is_causal = problem.is_causal,
          .softmax_scale = problem.softmax_scale,
          .sparsity_n = static_cast<int>(problem.sparsity_n),
          .sparsity_m = static_cast<int>(problem.sparsity_m),
          .num_sink_tokens = problem.num_sink_tokens,
          .dense_window_size = problem.dense_window_size,
          .sliding_window = problem.sliding_window,
          .skip_bc = problem.skip_bc,
          .output = problem.output.data_ptr(),
          .logsumexp = problem.logsumexp.data_ptr(),
          .mask = masked ? problem.mask.data_ptr<std::uint8_t>() : nullptr,
          .mask_bytes = masked ? problem.mask.size(2) : 0};
}

/// Memory of one worker, aligned for the widest vectors.
class ScratchBuffer {
 public:
  explicit ScratchBuffer(std::size_t bytes) : memory_(::operator new(bytes, kAlignment)) {}
  ~ScratchBuffer() { ::operator delete(memory_, kAlignment); }
  ScratchBuffer(const ScratchBuffer&) = delete;
  ScratchBuffer& operator=(const ScratchBuffer&) = delete;
  [[nodiscard]] void* get() const { return memory_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  void* memory_;
};

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

  void backward(const BackwardProblem& problem) const override {
    BackwardProblem masked = problem;
    if (!masked.forward.mask.defined()) {
      AttentionProblem again = problem.forward;
      std::int64_t keys = 0;
      for (const Sequence& sequence : again.sequences) keys = std::max(keys, sequence.k_len);
      again.output = at::empty_like(again.output);
      again.logsumexp = at::empty_like(again.logsumexp);
      again.mask = at::empty({again.q.size(0), again.q.size(1), (keys + 7) / 8}, again.q.options().dtype(at::kByte));
      run(again);
      masked.forward.mask = again.mask;
    }
    reference_backward(masked);
  }

  void run(const AttentionProblem& problem) const override {
    fill_rows_of_no_sequence(problem);
    const AttentionKernel& kernel = kernel_for(problem.q.scalar_type());
    const AttentionCall call = call_of(problem);
    const std::vector<AttentionTask> tasks = attention_tasks(problem, kernel.block_lanes, at::get_num_threads());
    std::vector<AttentionStats> stats(problem.stats.defined() ? tasks.size() : 0);

    std::int64_t lanes = 0;
    for (const AttentionTask& task : tasks) lanes = std::max(lanes, task.row_count * task.head_count);
    const std::size_t scratch_bytes = kernel.scratch_bytes(call.head_dim, lanes);
    const auto workers = std::min<std::int64_t>(at::get_num_threads(), static_cast<std::int64_t>(tasks.size()));
    std::atomic<std::size_t> next{0};
    at::parallel_for(0, workers, 1, [&](std::int64_t, std::int64_t) {
      const ScratchBuffer scratch(scratch_bytes);
      for (std::size_t i = next++; i < tasks.size(); i = next++) {
        kernel.run(call, tasks[i], scratch.get(), stats.empty() ? nullptr : &stats[i]);
      }
    });
    if (problem.stats.defined()) add_up_stats(tasks, stats, problem.stats);
  }
};

}  // namespace cpu

std::unique_ptr<Backend> make_cpu_backend() { return std::make_unique<cpu::CpuBackend>(); }

}  // namespace modelopt::kernels
