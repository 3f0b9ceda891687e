#include "kernels/cuda/sm90/backward/launch_flash_backward.cuh"

namespace modelopt::kernels::cuda::sm90 {

template void launch_flash_backward<BackwardTraits<__half, 64, true, Attended::kByPosition>>(const BackwardArguments&,
                                                                                             unsigned, cudaStream_t);
template void launch_flash_backward<BackwardTraits<__half, 64, true, Attended::kByMask>>(const BackwardArguments&,
                                                                                         unsigned, cudaStream_t);
template void launch_flash_backward<BackwardTraits<__half, 64, true, Attended::kBySelection>>(const BackwardArguments&,
                                                                                              unsigned, cudaStream_t);
template void launch_flash_backward<BackwardTraits<__half, 64, false, Attended::kByPosition>>(const BackwardArguments&,
                                                                                              unsigned, cudaStream_t);
template void launch_flash_backward<BackwardTraits<__half, 64, false, Attended::kByMask>>(const BackwardArguments&,
                                                                                          unsigned, cudaStream_t);

}  // namespace modelopt::kernels::cuda::sm90
