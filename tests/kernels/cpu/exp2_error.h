// Worst error of the vector exp2 of one instruction set, measured against the C library in a wider type.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "kernels/cpu/exp2.h"

namespace modelopt::kernels::cpu::testing {

/// In units in the last place of the exact result.
struct Exp2Error {
  double float32;
  double float64;
};

[[nodiscard]] Exp2Error exp2_error_portable();
#ifdef MODELOPT_CPU_X86
[[nodiscard]] Exp2Error exp2_error_avx2();
[[nodiscard]] Exp2Error exp2_error_avx512();
#endif

/// 2^t in every lane of a vector.
template <class V>
typename V::Scalar exp2_of(typename V::Scalar t) {
  typename V::Scalar lanes[V::kLanes];
  V::store(lanes, exp2<V>(V::set1(t)));
  return lanes[V::kLanes - 1];
}

/// fp32: every 37th of all floats from -126 to -2^-24.
template <class V>
double exp2_error_fp32() {
  const auto bits_of = [](float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    return bits;
  };
  double worst = 0.0;
  for (std::uint32_t bits = bits_of(-0x1p-24f); bits <= bits_of(-126.0f); bits += 37) {
    float t;
    std::memcpy(&t, &bits, sizeof(t));
    const double exact = ::exp2(static_cast<double>(t));
    const double ulp = ::ldexp(1.0, ::ilogb(exact) - 23);
    worst = ::fmax(worst, ::fabs(exp2_of<V>(t) - exact) / ulp);
  }
  return worst;
}

/// fp64: a million values from -1022 to 0, and a million from -1 to 0.
template <class V>
double exp2_error_fp64() {
  double worst = 0.0;
  const double lows[] = {-1022.0, -1.0};
  for (const double low : lows) {
    for (int i = 1; i < 1'000'000; ++i) {
      const double t = low * i * 1e-6;
      const long double exact = ::exp2l(t);
      const long double ulp = ::ldexpl(1.0L, ::ilogbl(exact) - 52);
      worst = ::fmax(worst, static_cast<double>(::fabsl(exp2_of<V>(t) - exact) / ulp));
    }
  }
  return worst;
}

}  // namespace modelopt::kernels::cpu::testing
