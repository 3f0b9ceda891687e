#include "kernels/cpu/vec_portable.h"
#include "tests/kernels/cpu/exp2_error.h"

namespace modelopt::kernels::cpu::testing {

Exp2Error exp2_error_portable() { return {exp2_error_fp32<PortableFloat>(), exp2_error_fp64<PortableDouble>()}; }

}  // namespace modelopt::kernels::cpu::testing
