#include "kernels/cuda/sm80/launch_forward.cuh"

namespace modelopt::kernels::cuda::sm80 {

template void launch_forward<__nv_bfloat16, 128, false, false>(const ForwardParams&, cudaStream_t);

}  // namespace modelopt::kernels::cuda::sm80
