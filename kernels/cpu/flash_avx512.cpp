#include "kernels/cpu/flash_kernels.h"
#include "kernels/cpu/vec_avx512.h"

namespace modelopt::kernels::cpu {

const AttentionKernels kAvx512Kernels = flash_kernels<Avx512Float, Avx512Double>();

}  // namespace modelopt::kernels::cpu
