// The sm80 backward's launches: which kernel runs a problem, from facts that the host knows.
#include <limits>

#include "kernels/cuda/backward/launch_backward.h"
#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/sm80/backward/launch_backward.h"

namespace modelopt::kernels::cuda {
namespace {

using sm80::BackwardLaunch;
using sm80::Gradients;

bool copies_16_bytes(const void* data, const Strides& strides) {
  const auto whole = [](std::int64_t elements) { return elements * 2 % 16 == 0; };
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && whole(strides.row) && whole(strides.head);
}

BackwardLaunch launch_of(const BackwardParams& params, int max_rows, int heads) {
  const AttentionParams& p = params.attention;
  const int rows = p.dtype == ElementType::kFloat32 ? sm80::kFp32BackwardRows : sm80::kBackwardRows;
  BackwardLaunch launch{
      .params = params, .scale_log2 = p.scale * exponent_unit(p.dtype), .row_tiles = (max_rows + rows - 1) / rows};
  launch.whole_chunks = p.head_dim % 8 == 0 && copies_16_bytes(p.q, p.q_strides) && copies_16_bytes(p.k, p.k_strides) &&
                        copies_16_bytes(p.v, p.v_strides) && copies_16_bytes(params.grad_output, params.query_rows);
  const std::int64_t blocks = std::int64_t{launch.row_tiles} * heads * p.batch;
  MODELOPT_CHECK(blocks <= std::numeric_limits<std::int32_t>::max(), Unsupported, "batch * heads * max_input_len / ",
                 rows, " is ", blocks, ", expected less than 2^31 for backend sm80");
  return launch;
}

template <typename Element>
void run_queries(const BackwardLaunch& launch, cudaStream_t stream) {
  const int head_dim = launch.params.attention.head_dim;
  head_dim <= 64    ? sm80::launch_backward<Element, 64, Gradients::kQueries>(launch, stream)
  : head_dim <= 128 ? sm80::launch_backward<Element, 128, Gradients::kQueries>(launch, stream)
                    : sm80::launch_backward<Element, 256, Gradients::kQueries>(launch, stream);
}

template <typename Element>
void run_keys(const BackwardLaunch& launch, cudaStream_t stream) {
  const BackwardParams& b = launch.params;
  if (b.attention.head_dim <= 64) {
    sm80::launch_backward<Element, 64, Gradients::kKeysAndValues>(launch, stream);
  } else if (b.attention.head_dim <= 128) {
    sm80::launch_backward<Element, 128, Gradients::kKeysAndValues>(launch, stream);
  } else {
    if (b.grad_k != nullptr) sm80::launch_backward<Element, 256, Gradients::kKeys>(launch, stream);
    if (b.grad_v != nullptr) sm80::launch_backward<Element, 256, Gradients::kValues>(launch, stream);
  }
}

void queries(const BackwardParams& params, const Workspace&, cudaStream_t stream) {
  const AttentionParams& p = params.attention;
  const BackwardLaunch launch = launch_of(params, p.max_q_len, p.heads);
  switch (p.dtype) {
    case ElementType::kFloat16:
      return run_queries<__half>(launch, stream);
    case ElementType::kBFloat16:
      return run_queries<__nv_bfloat16>(launch, stream);
    case ElementType::kFloat32:
      return launch_backward_fp32(launch, Gradients::kQueries, stream);
  }
}

void keys(const BackwardParams& params, const Workspace&, cudaStream_t stream) {
  const AttentionParams& p = params.attention;
  const BackwardLaunch launch = launch_of(params, p.max_k_len, p.kv_heads);
  switch (p.dtype) {
    case ElementType::kFloat16:
      return run_keys<__half>(launch, stream);
    case ElementType::kBFloat16:
      return run_keys<__nv_bfloat16>(launch, stream);
    case ElementType::kFloat32:
      return launch_backward_fp32(launch, Gradients::kKeysAndValues, stream);
  }
}

}  // namespace

const BackwardKernels kSm80Backward{&queries, &keys, nullptr, nullptr};

}  // namespace modelopt::kernels::cuda
