#include "kernels/cuda/sm80/vote_kernel.cuh"

namespace modelopt::kernels::cuda::sm80 {

template void launch_votes<__nv_bfloat16, 256>(const ForwardParams&, cudaStream_t);

}  // namespace modelopt::kernels::cuda::sm80
