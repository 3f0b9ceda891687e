#include "kernels/cpu/vec_avx512.h"
#include "tests/kernels/cpu/exp2_error.h"

namespace modelopt::kernels::cpu::testing {

Exp2Error exp2_error_avx512() { return {exp2_error_fp32<Avx512Float>(), exp2_error_fp64<Avx512Double>()}; }

}  // namespace modelopt::kernels::cpu::testing
