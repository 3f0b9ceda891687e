#include "kernels/cpu/backward_kernel.h"
#include "kernels/cpu/vec_portable.h"

namespace modelopt::kernels::cpu {

const BackwardKernels kPortableBackward = backward_kernels<PortableFloat, PortableDouble>();

}  // namespace modelopt::kernels::cpu
