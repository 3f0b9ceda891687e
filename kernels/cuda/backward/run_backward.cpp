#include <algorithm>

#include "kernels/cuda/backward/launch_backward.h"
#include "kernels/cuda/backward/prepare_backward.h"
#include "kernels/cuda/cuda_error.h"

namespace modelopt::kernels::cuda {
namespace {

constexpr std::int64_t kMaxMaskBytes = std::int64_t{256} << 20;  // of a mask that is found again

std::int64_t element_bytes(ElementType dtype) { return dtype == ElementType::kFloat32 ? 4 : 2; }

std::int64_t aligned_mask_bytes(std::int64_t bytes) {
  return (bytes + kMaskAlignment - 1) / kMaskAlignment * kMaskAlignment;
}

template <typename T>
T* offset(T* tensor, std::int64_t elements, std::int64_t bytes_per_element) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return tensor == nullptr ? nullptr
                           : reinterpret_cast<T*>(reinterpret_cast<Byte*>(tensor) + elements * bytes_per_element);
}

/// The problem of key heads [first, first + count) and their query heads.
BackwardParams heads_of(BackwardParams params, int first, int count) {
  AttentionParams& p = params.attention;
  const int group = p.heads / p.kv_heads;
  const std::int64_t bytes = element_bytes(p.dtype);
  const int query_head = first * group;
  p.q = offset(p.q, query_head * p.q_strides.head, bytes);
  p.k = offset(p.k, first * p.k_strides.head, bytes);
  p.v = offset(p.v, first * p.v_strides.head, bytes);
  p.output = offset(p.output, query_head * params.query_rows.head, bytes);
  p.logsumexp += query_head;
  params.grad_output = offset(params.grad_output, query_head * params.query_rows.head, bytes);
  params.grad_logsumexp = offset(params.grad_logsumexp, query_head, sizeof(float));
  params.grad_q = offset(params.grad_q, query_head * params.query_rows.head, bytes);
  params.grad_k = offset(params.grad_k, first * params.key_rows.head, bytes);
  params.grad_v = offset(params.grad_v, first * params.key_rows.head, bytes);
  params.sum_k = offset(params.sum_k, first * params.key_rows.head, sizeof(float));
  params.sum_v = offset(params.sum_v, first * params.key_rows.head, sizeof(float));
  p.heads = count * group;
  p.kv_heads = count;
  return params;
}

/// Rows of kMaskAlignment bytes, as the kernels read them.
void align_mask(AttentionParams& p, const Workspace& workspace, cudaStream_t stream) {
  const std::int64_t bytes = aligned_mask_bytes(p.mask_bytes);
  if (bytes == p.mask_bytes && reinterpret_cast<std::uintptr_t>(p.mask) % kMaskAlignment == 0) return;
  const auto rows = static_cast<std::size_t>(p.total_q) * static_cast<std::size_t>(p.heads);
  const auto pitch = static_cast<std::size_t>(bytes);
  auto* aligned = static_cast<std::uint8_t*>(workspace(std::max<std::size_t>(rows * pitch, 1)));
  MODELOPT_CUDA_CHECK(cudaMemsetAsync(aligned, 0, rows * pitch, stream), "clearing ", rows, " mask rows");
  const auto width = static_cast<std::size_t>(p.mask_bytes);
  MODELOPT_CUDA_CHECK(cudaMemcpy2DAsync(aligned, pitch, p.mask, width, width, rows, cudaMemcpyDeviceToDevice, stream),
                      "aligning ", rows, " mask rows");
  p.mask = aligned;
  p.mask_bytes = bytes;
}

/// Sequences may share keys only if keys have starts or lengths of their own: no two own a query row. One after the
/// other they add to the same sums.
bool may_share_keys(const AttentionParams& p) { return p.batch > 1 && (p.k_start != p.q_start || p.k_len != p.q_len); }

BackwardParams sequence_of(BackwardParams params, int index) {
  AttentionParams& p = params.attention;
  p.q_start += index;
  p.q_len += index;
  p.k_start += index;
  p.k_len += index;
  if (p.skip_lambda != nullptr) p.skip_lambda += index;
  p.batch = 1;
  return params;
}

void run_keys(const BackwardParams& params, const BackwardKernels& kernels, const Workspace& workspace,
              cudaStream_t stream) {
  if (params.grad_k == nullptr && params.grad_v == nullptr) return;
  if (params.sum_k == nullptr) {
    kernels.keys(params, workspace, stream);
  } else {
    for (int i = 0; i < params.attention.batch; ++i) kernels.keys(sequence_of(params, i), workspace, stream);
  }
}

void run_heads(const BackwardParams& params, const BackwardKernels& kernels, const Workspace& workspace,
               cudaStream_t stream) {
  prepare_row_stats(params, stream);
  if (params.grad_q != nullptr) kernels.queries(params, workspace, stream);
  run_keys(params, kernels, workspace, stream);
}

/// As many heads at a time as kMaxMaskBytes of mask are for, at least those of one key head.
void run_without_mask(BackwardParams params, const ForwardRun& forward, const BackwardKernels& kernels,
                      const Workspace& workspace, cudaStream_t stream) {
  AttentionParams& p = params.attention;
  p.mask_bytes = aligned_mask_bytes((std::min(p.max_k_len, p.total_kv) + 7) / 8);
  const std::int64_t rows_of_key_head = std::int64_t{p.total_q} * (p.heads / p.kv_heads);
  const auto heads =
      static_cast<int>(std::clamp<std::int64_t>(kMaxMaskBytes / (rows_of_key_head * p.mask_bytes), 1, p.kv_heads));
  const std::int64_t rows = rows_of_key_head * heads;
  const auto allocate = [&](std::int64_t bytes) { return workspace(static_cast<std::size_t>(bytes)); };
  p.mask = static_cast<std::uint8_t*>(allocate(rows * p.mask_bytes));
  params.row_stats = static_cast<float2*>(allocate(rows * std::int64_t{sizeof(float2)}));
  const bool selects = kernels.selects != nullptr && kernels.selects(p);
  void* output = selects ? nullptr : allocate(rows * p.head_dim * element_bytes(p.dtype));  // of no use
  float* logsumexp = selects ? nullptr : static_cast<float*>(allocate(rows * std::int64_t{sizeof(float)}));
  for (int first = 0; first < p.kv_heads; first += heads) {
    const BackwardParams some = heads_of(params, first, std::min(heads, p.kv_heads - first));
    if (selects) {
      prepare_row_stats(some, stream);
      kernels.select_queries(some, workspace, stream);
      run_keys(some, kernels, workspace, stream);
    } else {
      AttentionParams again = some.attention;
      again.output = output;
      again.logsumexp = logsumexp;
      forward(again, workspace, stream);
      run_heads(some, kernels, workspace, stream);
    }
  }
}

/// Keys of no sequence have gradients 0; rows of the queries that no kernel writes are those of the forward.
void clear_gradients(BackwardParams& params, const Workspace& workspace, cudaStream_t stream) {
  AttentionParams p = params.attention;
  if (params.grad_q != nullptr) {
    p.output = params.grad_q;
    p.logsumexp = static_cast<float*>(workspace(std::max<std::size_t>(1, sizeof(float) * p.total_q * p.heads)));
    p.mask = nullptr;
    fill_unowned_rows(p, stream);
  }
  const std::int64_t count = std::int64_t{p.total_kv} * p.kv_heads * p.head_dim;
  const auto clear = [&](void* gradient, std::int64_t bytes) {
    MODELOPT_CUDA_CHECK(cudaMemsetAsync(gradient, 0, static_cast<std::size_t>(count * bytes), stream), "clearing ",
                        count, " gradients of keys");
  };
  const bool sums = may_share_keys(p) && (params.grad_k != nullptr || params.grad_v != nullptr);
  if (sums) {
    for (float** sum : {&params.sum_k, &params.sum_v}) {
      *sum = static_cast<float*>(workspace(std::max<std::size_t>(1, sizeof(float) * static_cast<std::size_t>(count))));
      clear(*sum, sizeof(float));
    }
    return;
  }
  if (params.grad_k != nullptr) clear(params.grad_k, element_bytes(p.dtype));
  if (params.grad_v != nullptr) clear(params.grad_v, element_bytes(p.dtype));
}

}  // namespace

void run_backward(BackwardParams params, bool decide_again, const ForwardRun& forward, const BackwardKernels& kernels,
                  const Workspace& workspace, cudaStream_t stream) {
  AttentionParams& p = params.attention;
  clear_gradients(params, workspace, stream);
  if (p.batch == 0 || p.max_q_len == 0 || p.max_k_len == 0 || p.total_q == 0 || p.total_kv == 0) {
    // nothing is attended
  } else if (!decide_again) {
    if (p.mask != nullptr) align_mask(p, workspace, stream);
    params.row_stats = static_cast<float2*>(workspace(sizeof(float2) * p.total_q * p.heads));
    run_heads(params, kernels, workspace, stream);
  } else {
    run_without_mask(params, forward, kernels, workspace, stream);
  }
  if (params.sum_k == nullptr) return;
  const std::int64_t count = std::int64_t{p.total_kv} * p.kv_heads * p.head_dim;
  if (params.grad_k != nullptr) round_sums(params.sum_k, params.grad_k, p.dtype, count, stream);
  if (params.grad_v != nullptr) round_sums(params.sum_v, params.grad_v, p.dtype, count, stream);
}

}  // namespace modelopt::kernels::cuda
