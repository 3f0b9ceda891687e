#include "kernels/cpu/flash_kernels.h"
#include "kernels/cpu/vec_avx2.h"

namespace modelopt::kernels::cpu {

const AttentionKernels kAvx2Kernels = flash_kernels<Avx2Float, Avx2Double>();

}  // namespace modelopt::kernels::cpu
