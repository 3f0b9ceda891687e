// The two matrix products of a tile, one register-blocked kernel for both.
//
// Lanes are (query row, head) pairs. A value of the result has one chain of fused multiply-adds, in ascending order of
// the summed index, whatever the blocking: it does not depend on which lanes or rows are computed beside it.
#pragma once

#include <cstddef>

namespace modelopt::kernels::cpu {

/// acc[r][·] += sum over s of a[r * row_stride + s * step_stride] * b[s][·], b of NV vectors per step.
template <class V, int NV>
[[gnu::always_inline]] inline void accumulate(const typename V::Scalar* a, std::ptrdiff_t row_stride,
                                              std::ptrdiff_t step_stride, const typename V::Scalar* b, int steps,
                                              typename V::Reg (&acc)[V::kRows][NV]) {
  for (int s = 0; s < steps; ++s) {
    typename V::Reg operand[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) operand[v] = V::load(b + v * V::kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < V::kRows; ++r) {
      const typename V::Reg factor = V::set1(a[r * row_stride]);
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) acc[r][v] = V::fma(factor, operand[v], acc[r][v]);
    }
    a += step_stride;
    b += NV * V::kLanes;
  }
}

/// scores[key][lane] = sum over d of k[key][d] * q[d][lane], for key in [begin, end), both multiples of 8.
template <class V, int NV>
void score_tile(const typename V::Scalar* k, std::ptrdiff_t k_stride, const typename V::Scalar* q, int head_dim,
                int begin, int end, typename V::Scalar* scores) {
  constexpr int kLanes = NV * V::kLanes;
  for (int key = begin; key < end; key += V::kRows) {
    typename V::Reg acc[V::kRows][NV];
#pragma GCC unroll 8
    for (int r = 0; r < V::kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) acc[r][v] = V::set1(0);
    }
    accumulate<V, NV>(k + key * k_stride, k_stride, 1, q, head_dim, acc);
#pragma GCC unroll 8
    for (int r = 0; r < V::kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) V::store(scores + (key + r) * kLanes + v * V::kLanes, acc[r][v]);
    }
  }
}

/// out[d][lane] = rescale[lane] * out[d][lane] + sum of v[key][d] * weights[key][lane] over keys in [begin, end), for
/// d < padded_dim.
template <class V, int NV>
void weigh_tile(const typename V::Scalar* v_tile, std::ptrdiff_t v_stride, const typename V::Scalar* weights,
                int padded_dim, int begin, int end, const typename V::Reg (&rescale)[NV], typename V::Scalar* out) {
  constexpr int kLanes = NV * V::kLanes;
  for (int d = 0; d < padded_dim; d += V::kRows) {
    typename V::Reg acc[V::kRows][NV];
#pragma GCC unroll 8
    for (int r = 0; r < V::kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) acc[r][v] = V::set1(0);
    }
    accumulate<V, NV>(v_tile + begin * v_stride + d, 1, v_stride, weights + begin * kLanes, end - begin, acc);
#pragma GCC unroll 8
    for (int r = 0; r < V::kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) {
        typename V::Scalar* p = out + (d + r) * kLanes + v * V::kLanes;
        V::store(p, V::fma(V::load(p), rescale[v], acc[r][v]));
      }
    }
  }
}

/// weigh_tile for a tile with infinite or NaN values, or behind one: a weight of 0 contributes nothing instead of
/// 0 * inf = NaN, and so does what a rescaling takes to 0.
template <class V, int NV>
void weigh_nonfinite_tile(const typename V::Scalar* v_tile, std::ptrdiff_t v_stride, const typename V::Scalar* weights,
                          int padded_dim, int begin, int end, const typename V::Reg (&rescale)[NV],
                          typename V::Scalar* out) {
  using Reg = typename V::Reg;
  constexpr int kLanes = NV * V::kLanes;
  for (int d = 0; d < padded_dim; ++d) {
    for (int v = 0; v < NV; ++v) {
      Reg acc = V::set1(0);
      for (int key = begin; key < end; ++key) {
        const Reg weight = V::load(weights + key * kLanes + v * V::kLanes);
        const Reg next = V::fma(V::set1(v_tile[key * v_stride + d]), weight, acc);
        acc = V::blend(V::unequal(weight, V::set1(0)), next, acc);
      }
      typename V::Scalar* p = out + d * kLanes + v * V::kLanes;
      V::store(p, V::blend(V::unequal(rescale[v], V::set1(0)), V::fma(V::load(p), rescale[v], acc), acc));
    }
  }
}

}  // namespace modelopt::kernels::cpu
