#include "kernels/cuda/sm80/backward/launch_backward.cuh"

namespace modelopt::kernels::cuda::sm80 {

template void launch_backward<__half, 128, Gradients::kQueries>(const BackwardLaunch&, cudaStream_t);
template void launch_backward<__half, 128, Gradients::kKeysAndValues>(const BackwardLaunch&, cudaStream_t);

}  // namespace modelopt::kernels::cuda::sm80
