#include "kernels/cuda/decode/skip_keys.cuh"

namespace modelopt::kernels::cuda::decode {

template void launch_skip_keys<__half, 64>(const DecodeParams&, cudaStream_t);
template void launch_skip_keys<__half, 128>(const DecodeParams&, cudaStream_t);
template void launch_skip_keys<__half, 256>(const DecodeParams&, cudaStream_t);

}  // namespace modelopt::kernels::cuda::decode
