#include "kernels/cuda/decode/skip_keys.cuh"

namespace modelopt::kernels::cuda::decode {

template void launch_skip_keys<__nv_bfloat16, 64>(const DecodeParams&, cudaStream_t);
template void launch_skip_keys<__nv_bfloat16, 128>(const DecodeParams&, cudaStream_t);
template void launch_skip_keys<__nv_bfloat16, 256>(const DecodeParams&, cudaStream_t);

}  // namespace modelopt::kernels::cuda::decode
