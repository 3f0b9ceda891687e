#include "kernels/cuda/sm90/unordered_metadata.h"

#include <cuda_runtime.h>

#include <array>
#include <atomic>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/sm90/hopper.h"
#include "kernels/cuda/sm90/wgmma_instructions.h"

namespace modelopt::kernels::cuda::sm90 {
namespace {

constexpr int kColumns = 64;
constexpr int kKeysPerProduct = 32;
constexpr int kGroups = kKeysPerProduct / 4;
constexpr int kRounds = 24;  // every group of every row sees each of the twelve pairs twice, once with either selector

/// The ordered pair of group g in a row, going through all twelve as rounds go by.
__device__ int pair_index(int round, int row, int group) { return (round + 5 * row + 7 * group) % 12; }
__device__ int first_of(int pair) { return pair / 3; }
__device__ int second_of(int pair) { return (pair / 3 + 1 + pair % 3) % 4; }

/// Small whole numbers: every product and sum is exact.
__device__ float kept_value(int round, int row, int group, int slot) {
  return static_cast<float>((round + 3 * row + 5 * group + 7 * slot) % 13 - 6);
}
__device__ float value_of(int key, int column) { return static_cast<float>((key * 11 + column * 3) % 17 - 8); }

__device__ std::uint32_t kept_pair(int round, int row, int group) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(kept_value(round, row, group, 0), kept_value(round, row, group, 1));
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

/// The nibbles of four groups of a row.
__device__ std::uint32_t metadata_of(int round, int row, int first_group) {
  std::uint32_t bits = 0;
  for (int g = 0; g < 4; ++g) {
    const int pair = pair_index(round, row, first_group + g);
    bits |= static_cast<std::uint32_t>(first_of(pair) | second_of(pair) << 2) << (4 * g);
  }
  return bits;
}

__device__ float expected(int round, int row, int column) {
  float sum = 0.0f;
  for (int g = 0; g < kGroups; ++g) {
    const int pair = pair_index(round, row, g);
    sum += kept_value(round, row, g, 0) * value_of(4 * g + first_of(pair), column);
    sum += kept_value(round, row, g, 1) * value_of(4 * g + second_of(pair), column);
  }
  return sum;
}

/// One warpgroup: 64 rows times 32 keys, again and again. Counts wrong elements.
__global__ void __launch_bounds__(128) try_unordered_metadata(int* wrong) {
  __shared__ alignas(1024) __nv_bfloat16 v[kKeysPerProduct * kColumns];
  for (int i = static_cast<int>(threadIdx.x); i < kKeysPerProduct * kColumns; i += 128) {
    const int key = i / kColumns, column = i % kColumns;
    const int chunk = (column / 8) ^ (key % 8);  // 128-byte swizzle
    v[key * kColumns + chunk * 8 + column % 8] = __float2bfloat16(value_of(key, column));
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  const std::uint64_t matrix = static_cast<std::uint64_t>((shared_address(v) & 0x3FFFF) >> 4) | std::uint64_t{1} << 16 |
                               std::uint64_t{1024 >> 4} << 32 | std::uint64_t{1} << 62;
  const int lane = static_cast<int>(threadIdx.x) % 32, c = lane % 4;
  const int row = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
  int errors = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::uint32_t a[4];
    for (int i = 0; i < 4; ++i) a[i] = kept_pair(round, row + i % 2 * 8, i / 2 * 4 + c);
    const std::uint32_t metadata = metadata_of(round, row, c % 2 * 4) | metadata_of(round, row + 8, c % 2 * 4) << 16;
    float d[kColumns / 2];
    for (float& x : d) x = 0.0f;
    wgmma_fence();
    // Lanes that the selector does not name supply what must not matter.
    if (round < kRounds / 2) {
      Wgmma<__nv_bfloat16, kColumns>::sparse_values0(d, a, matrix, c < 2 ? metadata : ~metadata);
    } else {
      Wgmma<__nv_bfloat16, kColumns>::sparse_values1(d, a, matrix, c < 2 ? ~metadata : metadata);
    }
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_results(d);
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) {
      errors += d[i] != expected(round, row + i / 2 % 2 * 8, i / 4 * 8 + 2 * c + i % 2);
    }
  }
  if (errors > 0) atomicAdd(wrong, errors);
}

bool try_device() {
  int* wrong = nullptr;
  int count = -1;
  cudaStream_t stream = nullptr;
  MODELOPT_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream to try sparse metadata on");
  const auto steps = [&]() -> cudaError_t {
    if (const auto e = cudaMalloc(&wrong, sizeof(int)); e != cudaSuccess) return e;
    if (const auto e = cudaMemsetAsync(wrong, 0, sizeof(int), stream); e != cudaSuccess) return e;
    try_unordered_metadata<<<1, 128, 0, stream>>>(wrong);
    if (const auto e = cudaGetLastError(); e != cudaSuccess) return e;
    if (const auto e = cudaMemcpyAsync(&count, wrong, sizeof(int), cudaMemcpyDeviceToHost, stream); e != cudaSuccess) {
      return e;
    }
    return cudaStreamSynchronize(stream);
  };
  const cudaError_t result = steps();
  cudaFree(wrong);
  cudaStreamDestroy(stream);
  MODELOPT_CUDA_CHECK(result, "trying sparse metadata");
  return count == 0;
}

/// While it lives, allocating and waiting do not disturb CUDA graphs that are being captured, by this thread or others.
class RelaxedCapture {
 public:
  RelaxedCapture() { exchange(); }
  ~RelaxedCapture() { exchange(); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  void exchange() { (void)cudaThreadExchangeStreamCaptureMode(&mode_); }
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

std::atomic<bool> refused{false};

}  // namespace

void refuse_unordered_metadata(bool refuse) { refused = refuse; }

bool unordered_metadata_works() {
  if (refused) return false;
  enum : int { kUntried, kWorks, kFails };
  static std::array<std::atomic<int>, 64> answers{};
  int device = 0;
  MODELOPT_CUDA_CHECK(cudaGetDevice(&device), "current device");
  if (device >= static_cast<int>(answers.size())) return false;
  auto& answer = answers[static_cast<std::size_t>(device)];
  if (answer == kUntried) {
    const RelaxedCapture relaxed;
    answer = try_device() ? kWorks : kFails;
  }
  return answer == kWorks;
}

}  // namespace modelopt::kernels::cuda::sm90
