// Vectors of AVX2 with FMA and F16C. See vec_portable.h for what the members mean.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace modelopt::kernels::cpu {

struct Avx2Float {
  using Scalar = float;
  using Reg = __m256;
  using Mask = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kMaxVectors = 3;  // 4 x 3 accumulators, 3 operands, 1 broadcast: 16 registers
  static constexpr int kRows = 4;

  static Reg load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Reg x) { _mm256_storeu_ps(p, x); }
  static Reg set1(float x) { return _mm256_set1_ps(x); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static Reg round(Reg x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Reg ldexp(Reg x, Reg n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  }

  static Mask less(Reg a, Reg b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static Mask not_less(Reg a, Reg b) { return _mm256_cmp_ps(a, b, _CMP_NLT_UQ); }
  static Mask unequal(Reg a, Reg b) { return _mm256_cmp_ps(a, b, _CMP_NEQ_UQ); }
  static Mask none() { return _mm256_setzero_ps(); }
  static Mask both(Mask a, Mask b) { return _mm256_and_ps(a, b); }
  static Mask either(Mask a, Mask b) { return _mm256_or_ps(a, b); }
  static Reg blend(Mask m, Reg a, Reg b) { return _mm256_blendv_ps(b, a, m); }
  static Reg add_if(Mask m, Reg a, Reg b) { return _mm256_add_ps(a, _mm256_and_ps(m, b)); }
  static Reg sub_if(Mask m, Reg a, Reg b) { return _mm256_sub_ps(a, _mm256_and_ps(m, b)); }
  static std::uint32_t bits(Mask m) { return static_cast<std::uint32_t>(_mm256_movemask_ps(m)); }

  static Reg from_half(const std::uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static void to_half(std::uint16_t* p, Reg x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
};

struct Avx2Double {
  using Scalar = double;
  using Reg = __m256d;
  using Mask = __m256d;
  static constexpr int kLanes = 4;
  static constexpr int kMaxVectors = 3;
  static constexpr int kRows = 4;

  static Reg load(const double* p) { return _mm256_loadu_pd(p); }
  static void store(double* p, Reg x) { _mm256_storeu_pd(p, x); }
  static Reg set1(double x) { return _mm256_set1_pd(x); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_pd(a, b, c); }
  static Reg add(Reg a, Reg b) { return _mm256_add_pd(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm256_sub_pd(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_pd(a, b); }
  static Reg div(Reg a, Reg b) { return _mm256_div_pd(a, b); }
  static Reg max(Reg a, Reg b) { return _mm256_max_pd(a, b); }
  static Reg round(Reg x) { return _mm256_round_pd(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Reg ldexp(Reg x, Reg n) {
    // n + 1.5 * 2^52 has the integer n in its low bits
    const __m256i integer = _mm256_castpd_si256(_mm256_add_pd(n, _mm256_set1_pd(0x1.8p52)));
    const __m256i exponent = _mm256_slli_epi64(_mm256_add_epi64(integer, _mm256_set1_epi64x(1023)), 52);
    return _mm256_mul_pd(x, _mm256_castsi256_pd(exponent));
  }

  static Mask less(Reg a, Reg b) { return _mm256_cmp_pd(a, b, _CMP_LT_OQ); }
  static Mask not_less(Reg a, Reg b) { return _mm256_cmp_pd(a, b, _CMP_NLT_UQ); }
  static Mask unequal(Reg a, Reg b) { return _mm256_cmp_pd(a, b, _CMP_NEQ_UQ); }
  static Mask none() { return _mm256_setzero_pd(); }
  static Mask both(Mask a, Mask b) { return _mm256_and_pd(a, b); }
  static Mask either(Mask a, Mask b) { return _mm256_or_pd(a, b); }
  static Reg blend(Mask m, Reg a, Reg b) { return _mm256_blendv_pd(b, a, m); }
  static Reg add_if(Mask m, Reg a, Reg b) { return _mm256_add_pd(a, _mm256_and_pd(m, b)); }
  static Reg sub_if(Mask m, Reg a, Reg b) { return _mm256_sub_pd(a, _mm256_and_pd(m, b)); }
  static std::uint32_t bits(Mask m) { return static_cast<std::uint32_t>(_mm256_movemask_pd(m)); }
};

}  // namespace modelopt::kernels::cpu
