#include "kernels/cuda/sm90/skip/run_skip.h"

#include "kernels/cuda/sm90/launch_setup.h"
#include "kernels/cuda/sm90/skip/launch_skip_forward.h"
#include "kernels/cuda/sm90/skip/prepare_skip.h"

namespace modelopt::kernels::cuda::sm90 {
namespace {

template <typename Element, int kHeadDim>
void run_kernels(const AttentionParams& p, const VisibleBlocks& blocks, const Workspace& workspace,
                 cudaStream_t stream) {
  using Traits = SkipTraits<Element, kHeadDim, false>;
  const Schedule schedule = allocate_schedule(p, kSkipRows, workspace);
  auto* log_lambda = allocate<float>(workspace, p.batch);
  prepare_skip(p, schedule, map_templates<Traits>(p), log_lambda, stream);

  const CUtensorMap q_map = query_map(p, kSkipRows);
  const SkipArguments args{{.params = p,
                            .schedule = schedule,
                            .scale_log2 = p.scale * kLog2E,
                            .one = 1.0f,
                            .section_heads = section_heads(p),
                            .visible_blocks = blocks},
                           log_lambda};
  const int ctas = persistent_ctas(p, schedule);
  if (p.mask != nullptr || p.stats != nullptr) {
    launch_skip_forward<SkipTraits<Element, kHeadDim, true>>(q_map, args, ctas, stream);
  } else {
    launch_skip_forward<Traits>(q_map, args, ctas, stream);
  }
}

template <typename Element>
void run_head_dim(const AttentionParams& p, const VisibleBlocks& blocks, const Workspace& workspace,
                  cudaStream_t stream) {
  if (p.head_dim <= 64) {
    run_kernels<Element, 64>(p, blocks, workspace, stream);
  } else {
    run_kernels<Element, 128>(p, blocks, workspace, stream);
  }
}

}  // namespace

void run_skip(const AttentionParams& params, const VisibleBlocks& blocks, const Workspace& workspace,
              cudaStream_t stream) {
  MODELOPT_CHECK(params.skip_br == kSkipRows && params.skip_bc == kSkipKeys, Unsupported,
                 "backend sm90 skips blocks of ", kSkipRows, " rows and ", kSkipKeys, " keys, not of ", params.skip_br,
                 " and ", params.skip_bc);
  MODELOPT_CHECK(params.head_dim <= 128, Unsupported, "backend sm90 takes skip-softmax with a head_dim up to 128, not ",
                 params.head_dim);
  if (params.dtype == ElementType::kFloat16) {
    run_head_dim<__half>(params, blocks, workspace, stream);
  } else {
    run_head_dim<__nv_bfloat16>(params, blocks, workspace, stream);
  }
}

}  // namespace modelopt::kernels::cuda::sm90
