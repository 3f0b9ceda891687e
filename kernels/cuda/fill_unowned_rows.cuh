// Rows that the attention kernels need not write: those of no sequence and those that see no key by their position
// (output 0, log-sum-exp -inf, mask 0), and those of sequences that are out of range (NaN).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/attention_params.h"

namespace modelopt::kernels::cuda {

__device__ inline void store_element(void* output, std::int64_t index, ElementType dtype, float value) {
  switch (dtype) {
    case ElementType::kFloat16:
      static_cast<__half*>(output)[index] = __float2half(value);
      break;
    case ElementType::kBFloat16:
      static_cast<__nv_bfloat16*>(output)[index] = __float2bfloat16(value);
      break;
    case ElementType::kFloat32:
      static_cast<float*>(output)[index] = value;
      break;
  }
}

enum RowOwner : int { kNobody, kInvalidSequence, kSequence };

/// A valid sequence wins over an invalid one that claims the same row: its kernel writes there.
__device__ inline RowOwner owner_of(const AttentionParams& p, int row) {
  RowOwner owner = kNobody;
  for (int b = 0; b < p.batch; ++b) {
    const long long start = p.q_start[b];
    if (row < start || row >= start + p.q_len[b]) continue;
    const SequenceRange s = sequence_range(p, b);
    const bool sees_keys = s.k_len > 0 && !(p.is_causal && row - s.q_start + s.k_len - s.q_len < 0);
    if (s.valid) return sees_keys ? kSequence : kNobody;
    owner = kInvalidSequence;
  }
  return owner;
}

/// Rows [kThreads * block, kThreads * (block + 1)), by a block of kThreads threads: each finds the owner of one, then
/// all write the rows that need it.
template <int kThreads>
__device__ void fill_block_of_rows(const AttentionParams& p, int block) {
  __shared__ RowOwner owners[kThreads];
  const int first = block * kThreads;
  const int own = first + static_cast<int>(threadIdx.x);
  const RowOwner owner = own < p.total_q ? owner_of(p, own) : kSequence;
  owners[threadIdx.x] = owner;
  if (__syncthreads_or(owner != kSequence) == 0) return;
  const std::int64_t width = static_cast<std::int64_t>(p.heads) * p.head_dim;
  const float nan = __int_as_float(0x7fffffff);
  for (int r = 0; r < kThreads; ++r) {
    if (owners[r] == kSequence) continue;
    const bool invalid = owners[r] == kInvalidSequence;
    const std::int64_t row = first + r;
    for (std::int64_t i = threadIdx.x; i < width; i += kThreads) {
      store_element(p.output, row * width + i, p.dtype, invalid ? nan : 0.0f);
    }
    for (int h = static_cast<int>(threadIdx.x); h < p.heads; h += kThreads) {
      p.logsumexp[row * p.heads + h] = invalid ? nan : kNegativeInfinity<float>;
    }
    if (p.mask == nullptr) continue;
    const std::int64_t bytes = p.heads * p.mask_bytes;
    for (std::int64_t i = threadIdx.x; i < bytes; i += kThreads) p.mask[row * bytes + i] = 0;
  }
}

}  // namespace modelopt::kernels::cuda
