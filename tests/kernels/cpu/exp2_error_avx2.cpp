#include "kernels/cpu/vec_avx2.h"
#include "tests/kernels/cpu/exp2_error.h"

namespace modelopt::kernels::cpu::testing {

Exp2Error exp2_error_avx2() { return {exp2_error_fp32<Avx2Float>(), exp2_error_fp64<Avx2Double>()}; }

}  // namespace modelopt::kernels::cpu::testing
