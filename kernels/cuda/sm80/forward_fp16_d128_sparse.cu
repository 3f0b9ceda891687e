#include "kernels/cuda/sm80/launch_forward.cuh"

namespace modelopt::kernels::cuda::sm80 {

template void launch_forward<__half, 128, true, false>(const ForwardParams&, cudaStream_t);

}  // namespace modelopt::kernels::cuda::sm80
