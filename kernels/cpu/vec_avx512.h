// Vectors of AVX-512 (F, BW, VL, DQ). See vec_portable.h for what the members mean.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace modelopt::kernels::cpu {

struct Avx512Float {
  using Scalar = float;
  using Reg = __m512;
  using Mask = __mmask16;
  static constexpr int kLanes = 16;
  static constexpr int kMaxVectors = 3;  // 8 x 3 accumulators, 3 operands, 1 broadcast: 28 of 32 registers
  static constexpr int kRows = 8;

  static Reg load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Reg x) { _mm512_storeu_ps(p, x); }
  static Reg set1(float x) { return _mm512_set1_ps(x); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
  static Reg round(Reg x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Reg ldexp(Reg x, Reg n) { return _mm512_scalef_ps(x, n); }

  static Mask less(Reg a, Reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static Mask not_less(Reg a, Reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ); }
  static Mask unequal(Reg a, Reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ); }
  static Mask none() { return 0; }
  static Mask both(Mask a, Mask b) { return _kand_mask16(a, b); }
  static Mask either(Mask a, Mask b) { return _kor_mask16(a, b); }
  static Reg blend(Mask m, Reg a, Reg b) { return _mm512_mask_blend_ps(m, b, a); }
  static Reg add_if(Mask m, Reg a, Reg b) { return _mm512_mask_add_ps(a, m, a, b); }
  static Reg sub_if(Mask m, Reg a, Reg b) { return _mm512_mask_sub_ps(a, m, a, b); }
  static std::uint32_t bits(Mask m) { return m; }

  static Reg from_half(const std::uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void to_half(std::uint16_t* p, Reg x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
};

struct Avx512Double {
  using Scalar = double;
  using Reg = __m512d;
  using Mask = __mmask8;
  static constexpr int kLanes = 8;
  static constexpr int kMaxVectors = 3;
  static constexpr int kRows = 8;

  static Reg load(const double* p) { return _mm512_loadu_pd(p); }
  static void store(double* p, Reg x) { _mm512_storeu_pd(p, x); }
  static Reg set1(double x) { return _mm512_set1_pd(x); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_pd(a, b, c); }
  static Reg add(Reg a, Reg b) { return _mm512_add_pd(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm512_sub_pd(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_pd(a, b); }
  static Reg div(Reg a, Reg b) { return _mm512_div_pd(a, b); }
  static Reg max(Reg a, Reg b) { return _mm512_max_pd(a, b); }
  static Reg round(Reg x) { return _mm512_roundscale_pd(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Reg ldexp(Reg x, Reg n) { return _mm512_scalef_pd(x, n); }

  static Mask less(Reg a, Reg b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
  static Mask not_less(Reg a, Reg b) { return _mm512_cmp_pd_mask(a, b, _CMP_NLT_UQ); }
  static Mask unequal(Reg a, Reg b) { return _mm512_cmp_pd_mask(a, b, _CMP_NEQ_UQ); }
  static Mask none() { return 0; }
  static Mask both(Mask a, Mask b) { return _kand_mask8(a, b); }
  static Mask either(Mask a, Mask b) { return _kor_mask8(a, b); }
  static Reg blend(Mask m, Reg a, Reg b) { return _mm512_mask_blend_pd(m, b, a); }
  static Reg add_if(Mask m, Reg a, Reg b) { return _mm512_mask_add_pd(a, m, a, b); }
  static Reg sub_if(Mask m, Reg a, Reg b) { return _mm512_mask_sub_pd(a, m, a, b); }
  static std::uint32_t bits(Mask m) { return m; }
};

}  // namespace modelopt::kernels::cpu
