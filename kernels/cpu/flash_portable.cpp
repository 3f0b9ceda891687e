#include "kernels/cpu/flash_kernels.h"
#include "kernels/cpu/vec_portable.h"

namespace modelopt::kernels::cpu {

const AttentionKernels kPortableKernels = flash_kernels<PortableFloat, PortableDouble>();

}  // namespace modelopt::kernels::cpu
