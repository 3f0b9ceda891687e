// Launches whose start overlaps with the end of the kernel before (programmatic dependent launch).
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace modelopt::kernels::cuda::sm90 {

/// The kernel must wait itself (wait_for_kernel_before) for what the kernel before writes or still reads.
template <typename... Parameters, typename... Arguments>
[[nodiscard]] cudaError_t launch_overlapped(void (*kernel)(Parameters...), dim3 grid, dim3 block,
                                            std::size_t shared_bytes, cudaStream_t stream,
                                            const Arguments&... arguments) {
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace modelopt::kernels::cuda::sm90
