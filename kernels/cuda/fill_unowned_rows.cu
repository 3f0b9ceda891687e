// Rows that the attention kernels need not write: those of no sequence and those that see no key by their position (output
// 0, log-sum-exp -inf, mask 0), and those of sequences that are out of range (NaN).
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/launch.h"

namespace modelopt::kernels::cuda {
namespace {

constexpr int kThreads = 128;

__device__ void store(void* output, std::int64_t index, ElementType dtype, float value) {
  switch (dtype) {
    case ElementType::kFloat16: static_cast<__half*>(output)[index] = __float2half(value); break;
    case ElementType::kBFloat16: static_cast<__nv_bfloat16*>(output)[index] = __float2bfloat16(value); break;
    case ElementType::kFloat32: static_cast<float*>(output)[index] = value; break;
  }
}

enum Owner : int { kNobody, kInvalid, kSequence };

/// Thread t finds the owner of row kThreads * block + t, then the block writes the rows that need it. A valid sequence
/// wins over an invalid one that claims the same row: its kernel writes there.
__global__ void fill_rows(AttentionParams p) {
  __shared__ int owners[kThreads];
  const int first = static_cast<int>(blockIdx.x) * kThreads;
  const int row = first + static_cast<int>(threadIdx.x);
  int owner = kNobody;
  for (int b = 0; b < p.batch; ++b) {
    const long long start = p.q_start[b];
    if (row < start || row >= start + p.q_len[b]) continue;
    const SequenceRange s = sequence_range(p, b);
    const bool sees_keys = s.k_len > 0 && !(p.is_causal && row - s.q_start + s.k_len - s.q_len < 0);
    if (!s.valid) owner = kInvalid;
    if (s.valid) owner = sees_keys ? kSequence : kNobody;
    if (s.valid) break;
  }
  owners[threadIdx.x] = owner;
  __syncthreads();
  const std::int64_t width = static_cast<std::int64_t>(p.heads) * p.head_dim;
  for (int r = 0; r < kThreads && first + r < p.total_q; ++r) {
    if (owners[r] == kSequence) continue;
    const std::int64_t at = first + r;
    const float nan = __int_as_float(0x7fffffff);
    const float value = owners[r] == kInvalid ? nan : 0.0f;
    for (std::int64_t i = threadIdx.x; i < width; i += kThreads) store(p.output, at * width + i, p.dtype, value);
    for (int h = static_cast<int>(threadIdx.x); h < p.heads; h += kThreads) {
      p.logsumexp[at * p.heads + h] = owners[r] == kInvalid ? nan : kNegativeInfinity<float>;
    }
    if (p.mask == nullptr) continue;
    const std::int64_t bytes = p.heads * p.mask_bytes;
    for (std::int64_t i = threadIdx.x; i < bytes; i += kThreads) p.mask[at * bytes + i] = 0;
  }
}

}  // namespace

void fill_unowned_rows(const AttentionParams& params, cudaStream_t stream) {
  if (params.total_q == 0) return;
  fill_rows<<<(params.total_q + kThreads - 1) / kThreads, kThreads, 0, stream>>>(params);
  MODELOPT_CUDA_CHECK(cudaGetLastError(), "launching fill_rows for ", params.total_q, " rows");
}

}  // namespace modelopt::kernels::cuda
