#include "kernels/cuda/sm80/backward/launch_backward.cuh"

namespace modelopt::kernels::cuda::sm80 {

template void launch_backward<__nv_bfloat16, 128, Gradients::kQueries>(const BackwardLaunch&, cudaStream_t);
template void launch_backward<__nv_bfloat16, 128, Gradients::kKeysAndValues>(const BackwardLaunch&, cudaStream_t);

}  // namespace modelopt::kernels::cuda::sm80
