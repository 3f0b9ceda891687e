#include "kernels/cpu/backward_kernel.h"
#include "kernels/cpu/vec_avx2.h"

namespace modelopt::kernels::cpu {

const BackwardKernels kAvx2Backward = backward_kernels<Avx2Float, Avx2Double>();

}  // namespace modelopt::kernels::cpu
