// From a problem's tensors to the plain data that the kernels take, for forward and backward.
#pragma once

#include <ATen/Version.h>
#include <ATen/core/Tensor.h>

#include <cstddef>
#include <new>
#include <string>

#include "kernels/backend.h"
#include "kernels/cpu/attention_call.h"

namespace modelopt::kernels::cpu {

/// Of the tables of kernels, that for the instruction set that ATen runs on (environment variable ATEN_CPU_CAPABILITY
/// lowers it).
template <class Kernels>
const Kernels& kernels_of_this_cpu(const Kernels& portable, const Kernels& avx2, const Kernels& avx512) {
  static const std::string capability = at::get_cpu_capability();
  if (capability == "AVX512") return avx512;
  return capability == "AVX2" ? avx2 : portable;
}

template <class Kernels>
const auto& kernel_for(const Kernels& kernels, at::ScalarType dtype) {
  if (dtype == at::kDouble) return kernels.float64;
  if (dtype == at::kBFloat16) return kernels.bfloat16;
  return dtype == at::kHalf ? kernels.float16 : kernels.float32;
}

[[nodiscard]] inline PackedRows rows_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr(), tensor.stride(0), tensor.stride(1)};
}

/// The call with the problem's results; the backward only reads them.
[[nodiscard]] inline AttentionCall call_of(const AttentionProblem& problem) {
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

}  // namespace modelopt::kernels::cpu
