// Vectors for any CPU, in the compiler's vector extension, and the description of the vector interface.
//
// A vector type V has Scalar, Reg (kLanes scalars), Mask (one truth value per lane), the register blocking of the
// products (kRows x kMaxVectors accumulators; kRows divides 8) and the functions below.
#pragma once

#include <c10/util/Half.h>

#include <cstdint>
#include <cstring>

namespace modelopt::kernels::cpu {

template <typename T, typename Int>
struct PortableVec {
  using Scalar = T;
  using Reg __attribute__((vector_size(16))) = T;
  using Mask __attribute__((vector_size(16))) = Int;
  static constexpr int kLanes = 16 / sizeof(T);
  static constexpr int kMaxVectors = 2;
  static constexpr int kRows = 4;

  static Reg load(const T* p) {
    Reg x;
    std::memcpy(&x, p, sizeof(x));
    return x;
  }
  static void store(T* p, Reg x) { std::memcpy(p, &x, sizeof(x)); }
  static Reg set1(T x) { return x - Reg{}; }
  static Reg fma(Reg a, Reg b, Reg c) { return a * b + c; }  ///< rounds once where the CPU can
  static Reg add(Reg a, Reg b) { return a + b; }
  static Reg sub(Reg a, Reg b) { return a - b; }
  static Reg mul(Reg a, Reg b) { return a * b; }
  static Reg div(Reg a, Reg b) { return a / b; }
  static Reg max(Reg a, Reg b) { return a > b ? a : b; }  ///< b if either is NaN
  /// To the nearest integer, ties to even; exact below 2^22 (fp32), 2^51 (fp64).
  static Reg round(Reg x) { return (x + kRoundingShift) - kRoundingShift; }
  /// x * 2^n for integral n; n within the exponents of normal numbers. NaN stays NaN.
  static Reg ldexp(Reg x, Reg n) {
    const Mask exponent = __builtin_convertvector(n, Mask) + kExponentBias;
    Reg power;
    const Mask bits = exponent << kMantissaBits;
    std::memcpy(&power, &bits, sizeof(power));
    return x * power;
  }

  static Mask less(Reg a, Reg b) { return a < b; }
  static Mask not_less(Reg a, Reg b) { return ~(a < b); }  ///< true if either is NaN
  static Mask unequal(Reg a, Reg b) { return a != b; }     ///< true if either is NaN
  static Mask none() { return Mask{}; }
  static Mask both(Mask a, Mask b) { return a & b; }
  static Mask either(Mask a, Mask b) { return a | b; }
  static Reg blend(Mask m, Reg a, Reg b) { return m ? a : b; }       ///< a where m, else b
  static Reg add_if(Mask m, Reg a, Reg b) { return m ? a + b : a; }  ///< a + b where m, else a
  static Reg sub_if(Mask m, Reg a, Reg b) { return m ? a - b : a; }  ///< a - b where m, else a
  static std::uint32_t bits(Mask m) {                                ///< lane i in bit i
    std::uint32_t result = 0;
    for (int i = 0; i < kLanes; ++i) result |= static_cast<std::uint32_t>(m[i] & 1) << i;
    return result;
  }

  /// kLanes values of IEEE half precision. For fp32 vectors only.
  static Reg from_half(const std::uint16_t* p) {
    Reg x{};
    for (int i = 0; i < kLanes; ++i) x[i] = c10::Half(p[i], c10::Half::from_bits());
    return x;
  }
  static void to_half(std::uint16_t* p, Reg x) {
    for (int i = 0; i < kLanes; ++i) p[i] = c10::Half(x[i]).x;
  }

 private:
  static constexpr int kMantissaBits = sizeof(T) == 4 ? 23 : 52;
  static constexpr Int kExponentBias = sizeof(T) == 4 ? 127 : 1023;
  static constexpr T kRoundingShift = static_cast<T>(sizeof(T) == 4 ? 0x1.8p23 : 0x1.8p52);
};

using PortableFloat = PortableVec<float, std::int32_t>;
using PortableDouble = PortableVec<double, std::int64_t>;

}  // namespace modelopt::kernels::cpu
