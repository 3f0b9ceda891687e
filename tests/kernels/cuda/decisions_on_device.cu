#include "kernels/cuda/decisions_on_device.h"

#include "kernels/cuda/device_array.h"
#include "kernels/selection.h"
#include "kernels/skip.h"

namespace modelopt::testing {
namespace {

template <int M>
__global__ void keep_kernel(const float* scores, const std::uint32_t* visible, int n, std::uint32_t* kept, std::size_t groups) {
  const std::size_t group = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x;
  if (group >= groups) return;
  float own[M];
  for (int i = 0; i < M; ++i) own[i] = scores[group * M + i];
  kept[group] = kernels::keep_n_of_m<M>(own, visible[group], n);
}

__global__ void votes_kernel(const float* block_max, const float* running_max, float scale, float log_lambda,
                             std::uint32_t* votes, std::size_t rows) {
  const std::size_t row = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x;
  if (row < rows) votes[row] = kernels::row_votes_skip(block_max[row], running_max[row], scale, log_lambda);
}

constexpr int kThreads = 256;

unsigned blocks_for(std::size_t count) { return static_cast<unsigned>((count + kThreads - 1) / kThreads); }

}  // namespace

std::vector<std::uint32_t> keep_on_device(const std::vector<float>& scores, const std::vector<std::uint32_t>& visible, int n,
                                          int m) {
  const DeviceArray<float> device_scores(scores);
  const DeviceArray<std::uint32_t> device_visible(visible);
  const DeviceArray<std::uint32_t> kept(visible.size());
  const auto kernel = m == 4 ? keep_kernel<4> : keep_kernel<8>;
  kernel<<<blocks_for(visible.size()), kThreads>>>(device_scores.get(), device_visible.get(), n, kept.get(), visible.size());
  check(cudaGetLastError());
  return kept.to_host();
}

std::vector<std::uint32_t> votes_on_device(const std::vector<float>& block_max, const std::vector<float>& running_max,
                                           float scale, float log_lambda) {
  const DeviceArray<float> device_block(block_max), device_running(running_max);
  const DeviceArray<std::uint32_t> votes(block_max.size());
  votes_kernel<<<blocks_for(block_max.size()), kThreads>>>(device_block.get(), device_running.get(), scale, log_lambda,
                                                           votes.get(), block_max.size());
  check(cudaGetLastError());
  return votes.to_host();
}

}  // namespace modelopt::testing
