#include "kernels/cuda/sm80/launch_forward.cuh"

namespace modelopt::kernels::cuda::sm80 {

template void launch_forward<__half, 256, false, true>(const ForwardParams&, cudaStream_t);

}  // namespace modelopt::kernels::cuda::sm80
