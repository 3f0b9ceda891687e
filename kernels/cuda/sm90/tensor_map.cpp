#include "kernels/cuda/sm90/tensor_map.h"

#include <cuda_runtime_api.h>
#include <cudaTypedefs.h>

#include <algorithm>
#include <array>

#include "kernels/cuda/cuda_error.h"

namespace modelopt::kernels::cuda::sm90 {
namespace {

constexpr int kBoxElements = 64;  // 128 bytes, the width of the swizzle

/// From the driver, not linked: the library loads on machines without one.
PFN_cuTensorMapEncodeTiled_v12000 encode_function() {
  static const auto function = [] {
    void* pointer = nullptr;
    cudaDriverEntryPointQueryResult found{};
    MODELOPT_CUDA_CHECK(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &pointer, 12000, cudaEnableDefault, &found),
        "looking up cuTensorMapEncodeTiled");
    MODELOPT_CHECK(found == cudaDriverEntryPointSuccess, Unsupported,
                   "the CUDA driver has no cuTensorMapEncodeTiled, expected a driver for CUDA 12 or newer");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(pointer);
  }();
  return function;
}

template <std::size_t kRank>
CUtensorMap encode(const HeadTensor& tensor, const std::array<cuuint64_t, kRank>& extents,
                   const std::array<cuuint64_t, kRank - 1>& strides, const std::array<cuuint32_t, kRank>& box) {
  std::array<cuuint32_t, kRank> element_strides;
  element_strides.fill(1);
  const auto type =
      tensor.dtype == ElementType::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  CUtensorMap map;
  const CUresult result =
      encode_function()(&map, type, kRank, const_cast<void*>(tensor.base), extents.data(), strides.data(), box.data(),
                        element_strides.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  MODELOPT_CHECK(result == CUDA_SUCCESS, Error, "CUDA: cuTensorMapEncodeTiled failed with ", static_cast<int>(result),
                 " (rows ", tensor.rows, ", heads ", tensor.heads, ", head_dim ", tensor.head_dim, ", strides ",
                 tensor.strides.row, " and ", tensor.strides.head, " elements)");
  return map;
}

/// A stride that is never used (extent 1) may be 0, which the driver does not take.
cuuint64_t stride_bytes(std::int64_t elements) {
  return static_cast<cuuint64_t>(std::max<std::int64_t>(elements * 2, 16));
}

}  // namespace

CUtensorMap head_map(const HeadTensor& t, int box_rows) {
  return encode<3>(t, {cuuint64_t(t.head_dim), cuuint64_t(t.heads), cuuint64_t(t.rows)},
                   {stride_bytes(t.strides.head), stride_bytes(t.strides.row)},
                   {kBoxElements, 1, static_cast<cuuint32_t>(box_rows)});
}

CUtensorMap row_map(const HeadTensor& t, int box_rows) {
  return encode<2>(t, {cuuint64_t(t.head_dim), cuuint64_t(t.rows)}, {stride_bytes(t.strides.row)},
                   {kBoxElements, static_cast<cuuint32_t>(box_rows)});
}

CUtensorMap permuted_row_map(const HeadTensor& t, int box_rows, int block) {
  const cuuint64_t row = stride_bytes(t.strides.row);
  const auto places = static_cast<cuuint32_t>(block / 8);
  return encode<5>(t, {cuuint64_t(t.head_dim), 2, 4, places, cuuint64_t(std::max<std::int64_t>(1, t.rows / block))},
                   {row, row * (static_cast<cuuint64_t>(block) / 4), row * 2, row * static_cast<cuuint64_t>(block)},
                   {kBoxElements, 2, 4, places, static_cast<cuuint32_t>(box_rows / block)});
}

}  // namespace modelopt::kernels::cuda::sm90
