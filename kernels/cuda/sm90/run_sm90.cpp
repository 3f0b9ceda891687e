// Host side of the Hopper backend: picks the kernel, describes the tensors, and enqueues preparation and attention.
#include <cuda_runtime_api.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/sm90/launch_flash_forward.h"
#include "kernels/cuda/sm90/launch_setup.h"
#include "kernels/cuda/sm90/skip/run_skip.h"
#include "kernels/cuda/sm90/unordered_metadata.h"

namespace modelopt::kernels::cuda {
namespace {

using namespace sm90;

/// Preparation and attention.
template <typename Element, int kHeadDim, Pattern kPattern, Reference kReference>
void run_kernels(const AttentionParams& p, const Workspace& workspace, cudaStream_t stream) {
  using Traits = KernelTraits<Element, kHeadDim, kPattern, kReference>;
  Schedule schedule = allocate_schedule(p, Traits::kRows, workspace);
  schedule.rescue_next = allocate<int>(workspace, std::int64_t{schedule.max_tiles} * p.heads);
  const bool records = p.mask != nullptr || p.stats != nullptr;
  if (p.mask != nullptr) clear_mask(p, stream);
  prepare(p, schedule, map_templates<Traits>(p), Traits::kWarpgroups, stream);

  const CUtensorMap q_map = query_map(p, kBlockRows);
  KernelArguments args{.params = p,
                       .schedule = schedule,
                       .scale_log2 = p.scale * kLog2E,
                       .one = 1.0f,
                       .section_heads = section_heads(p),
                       .visible_blocks = {}};
  if (p.stats != nullptr) args.visible_blocks = allocate_visible_blocks(p, workspace, stream);
  const int ctas = persistent_ctas(p, schedule);
  if (records) {
    launch_flash_forward<KernelTraits<Element, kHeadDim, kPattern, kReference, true>>(q_map, args, ctas, stream);
  } else {
    launch_flash_forward<Traits>(q_map, args, ctas, stream);
  }
  if (p.stats != nullptr) count_visible_blocks(p, args.visible_blocks, stream);
}

template <typename Element, int kHeadDim>
void run_pattern(const AttentionParams& p, const Workspace& workspace, cudaStream_t stream) {
  // The bias needs bf16's range of exponents.
  constexpr Reference kReference = std::is_same_v<Element, __nv_bfloat16> ? Reference::kBiased : Reference::kTrueMaxima;
  if (p.sparsity_n == 0) {
    run_kernels<Element, kHeadDim, Pattern::kDense, kReference>(p, workspace, stream);
  } else if (p.sparsity_m == 4 && p.sparsity_n == 2) {
    if constexpr (kReference == Reference::kBiased) {
      if (unordered_metadata_works()) {
        run_kernels<Element, kHeadDim, Pattern::kSparse2of4Unordered, kReference>(p, workspace, stream);
        return;
      }
    }
    run_kernels<Element, kHeadDim, Pattern::kSparse2of4, kReference>(p, workspace, stream);
  } else if (p.sparsity_m == 4 && p.sparsity_n == 1) {
    run_kernels<Element, kHeadDim, Pattern::kSparse1of4, kReference>(p, workspace, stream);
  } else {
    run_kernels<Element, kHeadDim, Pattern::kMasked, kReference>(p, workspace, stream);
  }
}

template <typename Element>
void run_head_dim(const AttentionParams& p, const Workspace& workspace, cudaStream_t stream) {
  if (p.head_dim <= 64) {
    run_pattern<Element, 64>(p, workspace, stream);
  } else if (p.head_dim <= 96) {
    run_pattern<Element, 96>(p, workspace, stream);
  } else if (p.head_dim <= 128) {
    run_pattern<Element, 128>(p, workspace, stream);
  } else {
    run_pattern<Element, 256>(p, workspace, stream);
  }
}

}  // namespace

void run_sm90(const AttentionParams& params, const Workspace& workspace, cudaStream_t stream) {
  if (params.skips()) {
    run_skip(params, workspace, stream);
  } else if (params.dtype == ElementType::kFloat16) {
    run_head_dim<__half>(params, workspace, stream);
  } else {
    run_head_dim<__nv_bfloat16>(params, workspace, stream);
  }
}

}  // namespace modelopt::kernels::cuda
