#include "kernels/cuda/sm90/backward/launch_flash_backward.cuh"

namespace modelopt::kernels::cuda::sm90 {

template void launch_flash_backward<BackwardTraits<__nv_bfloat16, 64, true, false>>(const BackwardArguments&, unsigned,
                                                                                    cudaStream_t);
template void launch_flash_backward<BackwardTraits<__nv_bfloat16, 64, true, true>>(const BackwardArguments&, unsigned,
                                                                                   cudaStream_t);
template void launch_flash_backward<BackwardTraits<__nv_bfloat16, 64, false, false>>(const BackwardArguments&, unsigned,
                                                                                     cudaStream_t);
template void launch_flash_backward<BackwardTraits<__nv_bfloat16, 64, false, true>>(const BackwardArguments&, unsigned,
                                                                                    cudaStream_t);

}  // namespace modelopt::kernels::cuda::sm90
