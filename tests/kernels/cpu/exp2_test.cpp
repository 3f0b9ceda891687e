#include <catch2/catch_test_macros.hpp>

#include <limits>

#include "kernels/cpu/vec_portable.h"
#include "tests/kernels/cpu/exp2_error.h"

using namespace modelopt::kernels::cpu;
using namespace modelopt::kernels::cpu::testing;

namespace {

void check_error(const Exp2Error& error, double bound) {
  CAPTURE(error.float32, error.float64);
  CHECK(error.float32 <= bound);
  CHECK(error.float64 <= bound);
}

}  // namespace

TEST_CASE("exp2: error in ulp on every instruction set that this CPU has", "[cpu]") {
  check_error(exp2_error_portable(), 1.5);  // products and sums round apart
#ifdef MODELOPT_CPU_X86
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) check_error(exp2_error_avx2(), 1.0);
  if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) check_error(exp2_error_avx512(), 1.0);
#endif
}

TEST_CASE("exp2: the values that masks and invariances rest on are exact", "[cpu]") {
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(exp2_of<PortableFloat>(0.0f) == 1.0f);
  CHECK(exp2_of<PortableFloat>(-1.0f) == 0.5f);
  CHECK(exp2_of<PortableFloat>(-infinity) == 0.0f);
  CHECK(exp2_of<PortableFloat>(-126.0f) == std::numeric_limits<float>::min());
  CHECK(exp2_of<PortableFloat>(-126.5f) == 0.0f);
  CHECK(exp2_of<PortableFloat>(-1e30f) == 0.0f);
  CHECK(exp2_of<PortableFloat>(std::numeric_limits<float>::quiet_NaN()) != exp2_of<PortableFloat>(0.0f));
  CHECK(exp2_of<PortableDouble>(0.0) == 1.0);
  CHECK(exp2_of<PortableDouble>(-std::numeric_limits<double>::infinity()) == 0.0);
  CHECK(exp2_of<PortableDouble>(-1022.0) == std::numeric_limits<double>::min());
}
