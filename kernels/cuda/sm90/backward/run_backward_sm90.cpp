// Host side of the Hopper backward: picks the kernel, describes the tensors, and enqueues.
#include <limits>

#include "kernels/cuda/backward/launch_backward.h"
#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/sm90/backward/launch_flash_backward.h"
#include "kernels/cuda/sm90/backward/sequence_maps.h"
#include "kernels/cuda/sm90/tensor_map.h"

namespace modelopt::kernels::cuda {
namespace {

using namespace sm90;

constexpr std::int64_t kSectionBytes = std::int64_t{28} << 20;  // of columns; the L2 cache of an H100 has 50 MB

constexpr std::int64_t kSectionCtas = 512;  // so many can be handed out evenly

/// Heads (of the rows) that are worked on together: as many as have columns that share the L2 cache, if they are enough
/// to keep all multiprocessors busy until the end.
template <typename Traits>
int section_heads(const AttentionParams& p, int row_tiles) {
  const int group = p.heads / p.kv_heads;
  const std::int64_t bytes_per_row = std::int64_t{4} * p.head_dim;  // both tensors, 2 bytes an element
  const std::int64_t bytes_per_key_head =
      bytes_per_row * (Traits::kRowsAreQueries ? std::int64_t{p.max_k_len} : std::int64_t{p.max_q_len} * group);
  const std::int64_t ctas_per_key_head = std::int64_t{row_tiles} * p.batch * (Traits::kRowsAreQueries ? group : 1);
  int key_heads = p.kv_heads;
  while (key_heads % 2 == 0 && key_heads * bytes_per_key_head > kSectionBytes &&
         key_heads / 2 * ctas_per_key_head >= kSectionCtas) {
    key_heads /= 2;
  }
  return key_heads * (Traits::kRowsAreQueries ? group : 1);
}

template <typename Traits>
SequenceMapTemplates map_templates(const BackwardParams& params) {
  const AttentionParams& p = params.attention;
  SequenceMapTemplates templates{};
  const auto set = [&](BackwardMapKind kind, const void* base, bool of_queries, const Strides& strides, int box_rows) {
    const HeadTensor tensor{.base = base,
                            .dtype = p.dtype,
                            .rows = of_queries ? p.total_q : p.total_kv,
                            .heads = of_queries ? p.heads : p.kv_heads,
                            .head_dim = p.head_dim,
                            .strides = strides};
    templates.maps[kind] = head_map(tensor, box_rows);
    templates.base[kind] = base;
    templates.bytes_per_row[kind] = strides.row * 2;
    templates.of_queries[kind] = of_queries;
  };
  constexpr bool kQueries = Traits::kRowsAreQueries;
  const int query_box = kQueries ? Traits::kWarpgroupRows : Traits::kColumns;
  const int key_box = kQueries ? Traits::kColumns : Traits::kWarpgroupRows;
  set(kQueries ? kRowMap : kColumnMap, p.q, true, p.q_strides, query_box);
  set(kQueries ? kSecondRowMap : kSecondColumnMap, params.grad_output, true, params.query_rows, query_box);
  set(kQueries ? kColumnMap : kRowMap, p.k, false, p.k_strides, key_box);
  set(kQueries ? kSecondColumnMap : kSecondRowMap, p.v, false, p.v_strides, key_box);
  return templates;
}

template <typename Traits>
void run(const BackwardParams& params, const Workspace& workspace, cudaStream_t stream) {
  const AttentionParams& p = params.attention;
  auto* maps = static_cast<CUtensorMap*>(workspace(sizeof(CUtensorMap) * kBackwardMapKinds * p.batch));
  make_sequence_maps(p, map_templates<Traits>(params), maps, stream);
  const int row_tiles = ((Traits::kRowsAreQueries ? p.max_q_len : p.max_k_len) + Traits::kRows - 1) / Traits::kRows;
  const BackwardArguments args{.params = params,
                               .maps = maps,
                               .scale_log2 = p.scale * exponent_unit(p.dtype),
                               .row_tiles = row_tiles,
                               .section_heads = section_heads<Traits>(p, row_tiles)};
  const std::int64_t ctas = std::int64_t{args.row_tiles} * p.batch * (Traits::kRowsAreQueries ? p.heads : p.kv_heads);
  MODELOPT_CHECK(ctas <= std::numeric_limits<std::int32_t>::max(), Unsupported, "batch * heads * max_input_len / ",
                 Traits::kRows, " is ", ctas, ", expected less than 2^31 for backend sm90");
  launch_flash_backward<Traits>(args, static_cast<unsigned>(ctas), stream);
}

template <typename Element, int kHeadDim, bool kRowsAreQueries>
void run_head_dim(const BackwardParams& params, const Workspace& workspace, cudaStream_t stream) {
  params.attention.mask == nullptr
      ? run<BackwardTraits<Element, kHeadDim, kRowsAreQueries, false>>(params, workspace, stream)
      : run<BackwardTraits<Element, kHeadDim, kRowsAreQueries, true>>(params, workspace, stream);
}

template <typename Element, bool kRowsAreQueries>
void run_element(const BackwardParams& params, const Workspace& workspace, cudaStream_t stream) {
  params.attention.head_dim <= 64 ? run_head_dim<Element, 64, kRowsAreQueries>(params, workspace, stream)
                                  : run_head_dim<Element, 128, kRowsAreQueries>(params, workspace, stream);
}

template <bool kRowsAreQueries>
void run_side(const BackwardParams& params, const Workspace& workspace, cudaStream_t stream) {
  params.attention.dtype == ElementType::kFloat16
      ? run_element<__half, kRowsAreQueries>(params, workspace, stream)
      : run_element<__nv_bfloat16, kRowsAreQueries>(params, workspace, stream);
}

}  // namespace

const BackwardKernels kSm90Backward{&run_side<true>, &run_side<false>};

}  // namespace modelopt::kernels::cuda
