// Host side of the Hopper backward: picks the kernel, describes the tensors, and enqueues.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <limits>

#include "kernels/cuda/backward/launch_backward.h"
#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/sm90/backward/launch_flash_backward.h"
#include "kernels/cuda/sm90/backward/sequence_maps.h"
#include "kernels/cuda/sm90/launch_setup.h"

namespace modelopt::kernels::cuda {
namespace {

using namespace sm90;

constexpr std::int64_t kSectionCtas = 512;  // so many can be handed out evenly

/// Heads (of the rows) that are worked on together: as many as have columns that share the L2 cache, if they are enough
/// to keep all multiprocessors busy until the end.
template <typename Traits>
int heads_of_section(const AttentionParams& p, int row_tiles) {
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
SequenceMapTemplates sequence_map_templates(const BackwardParams& params) {
  const AttentionParams& p = params.attention;
  constexpr bool kQueries = Traits::kRowsAreQueries;
  const HeadTensor q = head_tensor(p, p.q, p.total_q, p.heads, p.q_strides);
  const HeadTensor grad_output = head_tensor(p, params.grad_output, p.total_q, p.heads, params.query_rows);
  const HeadTensor k = head_tensor(p, p.k, p.total_kv, p.kv_heads, p.k_strides);
  const HeadTensor v = head_tensor(p, p.v, p.total_kv, p.kv_heads, p.v_strides);
  SequenceMapTemplates templates{};
  const auto set = [&](BackwardMapKind kind, const HeadTensor& tensor, const CUtensorMap& map, int row_dimension,
                       int block_rows) {
    templates.maps[kind] = map;
    templates.base[kind] = tensor.base;
    templates.bytes_per_row[kind] = tensor.strides.row * 2;
    templates.bytes_per_head[kind] = row_dimension == 2 ? 0 : tensor.strides.head * 2;
    templates.row_dimension[kind] = row_dimension;
    templates.block_rows[kind] = block_rows;
    templates.of_queries[kind] = &tensor == &q || &tensor == &grad_output;
  };
  const auto set_heads = [&](BackwardMapKind kind, const HeadTensor& tensor, int box_rows) {
    set(kind, tensor, head_map(tensor, box_rows), 2, 1);
  };
  const auto set_selected = [&](BackwardMapKind kind, BackwardMapKind pairs, const HeadTensor& tensor) {
    set(kind, tensor, permuted_row_map(tensor, Traits::kColumns, kSelectionBlock), 4, kSelectionBlock);
    set(pairs, tensor, row_map(tensor, 2), 1, 1);
  };
  set_heads(kRowMap, kQueries ? q : k, Traits::kWarpgroupRows);
  set_heads(kSecondRowMap, kQueries ? grad_output : v, Traits::kWarpgroupRows);
  if constexpr (Traits::kSelects) {
    set_selected(kColumnMap, kColumnPairMap, k);
    set_selected(kSecondColumnMap, kSecondColumnPairMap, v);
  } else {
    set_heads(kColumnMap, kQueries ? k : q, Traits::kColumns);
    set_heads(kSecondColumnMap, kQueries ? v : grad_output, Traits::kColumns);
  }
  return templates;
}

template <typename Traits>
void run(const BackwardParams& params, const Workspace& workspace, cudaStream_t stream) {
  const AttentionParams& p = params.attention;
  const int map_heads = Traits::kSelects ? p.kv_heads : 1;
  auto* maps = static_cast<CUtensorMap*>(
      workspace(sizeof(CUtensorMap) * kBackwardMapKinds * static_cast<std::size_t>(p.batch) * map_heads));
  make_sequence_maps(p, sequence_map_templates<Traits>(params), map_heads, maps, stream);
  const int row_tiles = ((Traits::kRowsAreQueries ? p.max_q_len : p.max_k_len) + Traits::kRows - 1) / Traits::kRows;
  const BackwardArguments args{.params = params,
                               .maps = maps,
                               .map_heads = map_heads,
                               .scale_log2 = p.scale * exponent_unit(p.dtype),
                               .row_tiles = row_tiles,
                               .section_heads = heads_of_section<Traits>(p, row_tiles)};
  const std::int64_t ctas = std::int64_t{args.row_tiles} * p.batch * (Traits::kRowsAreQueries ? p.heads : p.kv_heads);
  MODELOPT_CHECK(ctas <= std::numeric_limits<std::int32_t>::max(), Unsupported, "batch * heads * max_input_len / ",
                 Traits::kRows, " is ", ctas, ", expected less than 2^31 for backend sm90");
  launch_flash_backward<Traits>(args, static_cast<unsigned>(ctas), stream);
}

template <bool kRowsAreQueries, Attended kAttended>
void run_shape(const BackwardParams& params, const Workspace& workspace, cudaStream_t stream) {
  const AttentionParams& p = params.attention;
  const auto run_element = [&]<typename Element>(Element) {
    p.head_dim <= 64 ? run<BackwardTraits<Element, 64, kRowsAreQueries, kAttended>>(params, workspace, stream)
                     : run<BackwardTraits<Element, 128, kRowsAreQueries, kAttended>>(params, workspace, stream);
  };
  p.dtype == ElementType::kFloat16 ? run_element(__half{}) : run_element(__nv_bfloat16{});
}

template <bool kRowsAreQueries>
void run_side(const BackwardParams& params, const Workspace& workspace, cudaStream_t stream) {
  params.attention.mask == nullptr ? run_shape<kRowsAreQueries, Attended::kByPosition>(params, workspace, stream)
                                   : run_shape<kRowsAreQueries, Attended::kByMask>(params, workspace, stream);
}

/// Where the forward took the sparse tensor cores: its tiles are those of select_tile.cuh.
bool can_select(const AttentionParams& p) {
  return p.sparsity_m == 4 && (p.sparsity_n == 1 || p.sparsity_n == 2) && !p.skips();
}

}  // namespace

const BackwardKernels kSm90Backward{&run_side<true>, &run_side<false>, &can_select,
                                    &run_shape<true, Attended::kBySelection>};

}  // namespace modelopt::kernels::cuda
