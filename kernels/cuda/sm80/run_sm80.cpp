// The sm80 backend's launch: which kernel runs a problem, from facts that the host knows.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sm80/launch_forward.h"
#include "kernels/cuda/visible_blocks.h"

namespace modelopt::kernels::cuda {
namespace {

using sm80::ForwardParams;

using Launch = void (*)(const ForwardParams&, cudaStream_t);

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

int padded_head_dim(const AttentionParams& p) { return p.head_dim <= 64 ? 64 : p.head_dim <= 128 ? 128 : 256; }

/// Whether the rows of all heads can be copied in pieces of 16 bytes.
bool copies_16_bytes(const void* data, const Strides& strides) {
  const auto whole = [](std::int64_t elements) { return elements * 2 % 16 == 0; };
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && whole(strides.row) && whole(strides.head);
}

template <typename Element, int kHeadDim>
Launch kernel_for(bool sparse, bool general) {
  if (sparse) {
    return general ? &sm80::launch_forward<Element, kHeadDim, true, true>
                   : &sm80::launch_forward<Element, kHeadDim, true, false>;
  }
  return general ? &sm80::launch_forward<Element, kHeadDim, false, true>
                 : &sm80::launch_forward<Element, kHeadDim, false, false>;
}

template <typename Element>
Launch votes_for(int padded_head_dim) {
  if (padded_head_dim == 64) return &sm80::launch_votes<Element, 64>;
  if (padded_head_dim == 128) return &sm80::launch_votes<Element, 128>;
  return &sm80::launch_votes<Element, 256>;
}

template <typename Element>
Launch kernel_for(int padded_head_dim, bool sparse, bool general) {
  if (padded_head_dim == 64) return kernel_for<Element, 64>(sparse, general);
  if (padded_head_dim == 128) return kernel_for<Element, 128>(sparse, general);
  return kernel_for<Element, 256>(sparse, general);
}

}  // namespace

namespace sm80 {

ForwardParams forward_params_of(const AttentionParams& p) {
  const float scale_log2 = p.scale * 1.44269504088896341f;
  ForwardParams params{.attention = p,
                       .scale_log2 = scale_log2,
                       .slack = std::min(8.0f / scale_log2, std::numeric_limits<float>::max())};
  const int rows = p.dtype == ElementType::kFloat32 ? kFp32QueryRows : query_tile_rows(padded_head_dim(p));
  // Tiles are aligned to absolute positions: the rows of a sequence may begin and end inside one.
  params.query_tiles = static_cast<int>(ceil_div(p.max_q_len, rows)) + 1;
  const std::int64_t blocks = std::int64_t{params.query_tiles} * p.heads * p.batch;
  MODELOPT_CHECK(blocks <= std::numeric_limits<std::int32_t>::max(), Unsupported, "batch * heads * max_input_len / ",
                 rows, " is ", blocks, ", expected less than 2^31 for backend sm80");
  params.whole_chunks = p.head_dim % 8 == 0 && copies_16_bytes(p.q, p.q_strides) && copies_16_bytes(p.k, p.k_strides) &&
                        copies_16_bytes(p.v, p.v_strides);
  return params;
}

void run_votes(const ForwardParams& params, cudaStream_t stream) {
  const AttentionParams& p = params.attention;
  const Launch launch = p.dtype == ElementType::kFloat32   ? &launch_votes_fp32
                        : p.dtype == ElementType::kFloat16 ? votes_for<__half>(padded_head_dim(p))
                                                           : votes_for<__nv_bfloat16>(padded_head_dim(p));
  launch(params, stream);
}

}  // namespace sm80

void run_sm80(const AttentionParams& p, const Workspace& workspace, cudaStream_t stream) {
  ForwardParams params = sm80::forward_params_of(p);
  if (p.stats != nullptr || p.skips()) params.visible_blocks = allocate_visible_blocks(p, workspace, stream);
  if (p.skips()) sm80::run_votes(params, stream);
  if (p.dtype == ElementType::kFloat32) {
    sm80::launch_forward_fp32(params, stream);
  } else {
    const bool sparse = p.sparsity_m == 4 && (p.sparsity_n == 1 || p.sparsity_n == 2);
    const bool general =
        !params.whole_chunks || p.mask != nullptr || p.stats != nullptr || p.skips() || (p.sparsity_n > 0 && !sparse);
    const Launch launch = p.dtype == ElementType::kFloat16
                              ? kernel_for<__half>(padded_head_dim(p), sparse, general)
                              : kernel_for<__nv_bfloat16>(padded_head_dim(p), sparse, general);
    launch(params, stream);
  }
  if (p.stats != nullptr) count_visible_blocks(p, params.visible_blocks, stream);
}

}  // namespace modelopt::kernels::cuda
