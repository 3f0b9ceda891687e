// Host side of the Hopper backend: picks the kernel, describes the tensors, and enqueues preparation and attention.
#include <cuda_runtime_api.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/sm90/launch_flash_forward.h"
#include "kernels/cuda/sm90/launch_setup.h"
#include "kernels/cuda/sm90/skip/prepare_skip.h"
#include "kernels/cuda/sm90/skip/run_skip.h"
#include "kernels/cuda/sm90/unordered_metadata.h"

namespace modelopt::kernels::cuda {
namespace {

using namespace sm90;

/// One call, or what skipping leaves of it; `blocks` is for its statistics.
struct Call {
  const AttentionParams& params;
  const VisibleBlocks& blocks;
  const Workspace& workspace;
  cudaStream_t stream;
};

/// Preparation and attention.
template <typename Element, int kHeadDim, Pattern kPattern, Reference kReference>
void run_kernels(const Call& call) {
  const auto& [p, blocks, workspace, stream] = call;
  using Traits = KernelTraits<Element, kHeadDim, kPattern, kReference>;
  Schedule schedule = allocate_schedule(p, Traits::kRows, workspace);
  schedule.rescue_next = allocate<int>(workspace, std::int64_t{schedule.max_tiles} * p.heads);
  const bool records = p.mask != nullptr || p.stats != nullptr;
  if (p.skips()) {
    prepare_beside_skip(p, schedule, map_templates<Traits>(p), Traits::kWarpgroups, stream);
  } else {
    prepare(p, schedule, map_templates<Traits>(p), Traits::kWarpgroups, stream);
  }

  const CUtensorMap q_map = query_map(p, kBlockRows);
  const KernelArguments args{.params = p,
                             .schedule = schedule,
                             .scale_log2 = p.scale * kLog2E,
                             .one = 1.0f,
                             .section_heads = section_heads(p),
                             .visible_blocks = blocks};
  const int ctas = persistent_ctas(p, schedule);
  if (records) {
    launch_flash_forward<KernelTraits<Element, kHeadDim, kPattern, kReference, true>>(q_map, args, ctas, stream);
  } else {
    launch_flash_forward<Traits>(q_map, args, ctas, stream);
  }
}

template <typename Element, int kHeadDim>
void run_pattern(const Call& call) {
  const AttentionParams& p = call.params;
  // The bias needs bf16's range of exponents.
  constexpr Reference kReference = std::is_same_v<Element, __nv_bfloat16> ? Reference::kBiased : Reference::kTrueMaxima;
  if (p.sparsity_n == 0) {
    run_kernels<Element, kHeadDim, Pattern::kDense, kReference>(call);
  } else if (p.sparsity_m == 4 && p.sparsity_n == 2) {
    if constexpr (kReference == Reference::kBiased) {
      if (unordered_metadata_works()) {
        run_kernels<Element, kHeadDim, Pattern::kSparse2of4Unordered, kReference>(call);
        return;
      }
    }
    run_kernels<Element, kHeadDim, Pattern::kSparse2of4, kReference>(call);
  } else if (p.sparsity_m == 4 && p.sparsity_n == 1) {
    run_kernels<Element, kHeadDim, Pattern::kSparse1of4, kReference>(call);
  } else {
    run_kernels<Element, kHeadDim, Pattern::kMasked, kReference>(call);
  }
}

template <typename Element>
void run_head_dim(const Call& call) {
  const int head_dim = call.params.head_dim;
  if (head_dim <= 64) {
    run_pattern<Element, 64>(call);
  } else if (head_dim <= 96) {
    run_pattern<Element, 96>(call);
  } else if (head_dim <= 128) {
    run_pattern<Element, 128>(call);
  } else {
    run_pattern<Element, 256>(call);
  }
}

}  // namespace

void run_sm90(const AttentionParams& params, const Workspace& workspace, cudaStream_t stream) {
  if (params.mask != nullptr) clear_mask(params, stream);
  VisibleBlocks blocks;
  if (params.stats != nullptr) blocks = allocate_visible_blocks(params, workspace, stream);
  if (params.skips()) run_skip(params, blocks, workspace, stream);
  if (!params.skips() || params.skip_lambda != nullptr) {
    const Call call{params, blocks, workspace, stream};
    if (params.dtype == ElementType::kFloat16) {
      run_head_dim<__half>(call);
    } else {
      run_head_dim<__nv_bfloat16>(call);
    }
  }
  if (params.stats != nullptr) count_visible_blocks(params, blocks, stream);
}

}  // namespace modelopt::kernels::cuda
