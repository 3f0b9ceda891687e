#include "kernels/cuda/sm80_selection_on_device.h"

#include "kernels/cuda/device_array.h"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/sm80/key_order.h"
#include "kernels/cuda/sm80/mma_sync.cuh"
#include "kernels/cuda/sm80/select_2of4.h"

namespace modelopt::testing {
namespace {

namespace sm80 = kernels::cuda::sm80;

__global__ void keep_pairs(const float* scores, int n, int shift, float* first, float* second, std::uint32_t* metadata,
                           std::size_t groups) {
  const std::size_t group = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x;
  if (group >= groups) return;
  const float* x = scores + 4 * group;
  std::uint32_t word = sm80::kMetadataBase;
  const sm80::KeptPair pair = n == 1 ? sm80::keep_1_of_4(x[0], x[1], x[2], x[3], shift, word)
                                     : sm80::keep_2_of_4(x[0], x[1], x[2], x[3], shift, word);
  first[group] = pair.first;
  second[group] = pair.second;
  metadata[group] = word;
}

/// One warp, in the layout of forward_kernel.cuh: lane 4 row + c holds keys 8c … 8c+7 of each block of 32 keys.
__global__ void sparse_product(const float* scores, const float* values, float* output) {
  const int row = static_cast<int>(threadIdx.x) / 4;
  const int c = static_cast<int>(threadIdx.x) % 4;
  std::uint32_t metadata = sm80::kMetadataBase;
  std::uint32_t kept[2][4], value[2][4];
  for (int block = 0; block < 2; ++block) {
    for (int half = 0; half < 2; ++half) {
      for (int group = 0; group < 2; ++group) {
        const float* x = scores + (row + 8 * half) * 64 + 32 * block + 8 * c + 4 * group;
        const sm80::KeptPair pair =
            sm80::keep_2_of_4(x[0], x[1], x[2], x[3], 16 * half + 8 * block + 4 * group, metadata);
        kept[block][2 * group + half] = kernels::cuda::pack<__nv_bfloat16>(pair.first, pair.second);
      }
    }
    for (int i = 0; i < 4; ++i) {
      const float* first = values + (32 * block + sm80::key_of_sparse_k(8 * i + 2 * c)) * 8;
      const float* second = values + (32 * block + sm80::key_of_sparse_k(8 * i + 2 * c + 1)) * 8;
      value[block][i] = kernels::cuda::pack<__nv_bfloat16>(first[row], second[row]);
    }
  }
  metadata = sm80::transpose_fields_over_quad(metadata);
  float sum[4] = {};
  sm80::mma_sp_16x8x32<__nv_bfloat16, 0>(sum, kept[0], value[0], metadata);
  sm80::mma_sp_16x8x32<__nv_bfloat16, 1>(sum, kept[1], value[1], metadata);
  for (int i = 0; i < 4; ++i) output[(row + i / 2 * 8) * 8 + 2 * c + i % 2] = sum[i];
}

}  // namespace

KeptPairs keep_pairs_on_device(const std::vector<float>& scores, int n, int shift) {
  constexpr unsigned kThreads = 256;
  const std::size_t groups = scores.size() / 4;
  const DeviceArray<float> device_scores(scores), first(groups), second(groups);
  const DeviceArray<std::uint32_t> metadata(groups);
  keep_pairs<<<static_cast<unsigned>((groups + kThreads - 1) / kThreads), kThreads>>>(
      device_scores.get(), n, shift, first.get(), second.get(), metadata.get(), groups);
  check(cudaGetLastError());
  return {first.to_host(), second.to_host(), metadata.to_host()};
}

std::vector<float> sparse_product_on_device(const std::vector<float>& scores, const std::vector<float>& values) {
  const DeviceArray<float> device_scores(scores), device_values(values), output(16 * 8);
  sparse_product<<<1, 32>>>(device_scores.get(), device_values.get(), output.get());
  check(cudaGetLastError());
  return output.to_host();
}

}  // namespace modelopt::testing
