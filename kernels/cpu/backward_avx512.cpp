#include "kernels/cpu/backward_kernel.h"
#include "kernels/cpu/vec_avx512.h"

namespace modelopt::kernels::cpu {

const BackwardKernels kAvx512Backward = backward_kernels<Avx512Float, Avx512Double>();

}  // namespace modelopt::kernels::cpu
