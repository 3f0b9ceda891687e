// The product over rows that the gradients of keys need; the other products of the backward are those of
// tile_product.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace modelopt::kernels::cpu {

/// out[key][d] += sum over lanes of weights[key][lane] * rows[lane][d], for V::kRows keys and NV vectors of d: one
/// chain of fused multiply-adds in ascending order of the lanes, starting from out.
template <class V, int NV>
[[gnu::always_inline]] inline void add_rows_to_keys(const typename V::Scalar* weights, std::ptrdiff_t weight_stride,
                                                    const typename V::Scalar* rows, std::ptrdiff_t row_stride,
                                                    int lanes, typename V::Scalar* out) {
  typename V::Reg acc[V::kRows][NV];
#pragma GCC unroll 8
  for (int r = 0; r < V::kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) acc[r][v] = V::load(out + r * row_stride + v * V::kLanes);
  }
  for (int lane = 0; lane < lanes; ++lane) {
    typename V::Reg operand[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) operand[v] = V::load(rows + v * V::kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < V::kRows; ++r) {
      const typename V::Reg factor = V::set1(weights[r * weight_stride]);
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) acc[r][v] = V::fma(factor, operand[v], acc[r][v]);
    }
    ++weights;
    rows += row_stride;
  }
#pragma GCC unroll 8
  for (int r = 0; r < V::kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) V::store(out + r * row_stride + v * V::kLanes, acc[r][v]);
  }
}

/// The same for keys in [begin, end), multiples of 8, and the whole `row_stride` (a multiple of V::kLanes) of d.
template <class V>
void add_rows_to_tile(const typename V::Scalar* weights, std::ptrdiff_t weight_stride, const typename V::Scalar* rows,
                      std::ptrdiff_t row_stride, int lanes, int begin, int end, typename V::Scalar* out) {
  for (int key = begin; key < end; key += V::kRows) {
    const typename V::Scalar* const key_weights = weights + key * weight_stride;
    typename V::Scalar* const key_out = out + key * row_stride;
    std::ptrdiff_t d = 0;
    for (std::ptrdiff_t vectors = row_stride / V::kLanes; vectors > 0;) {
      // 3 at once keep the multipliers busiest; but 4 are better done as 2 + 2 than as 3 + 1
      if (V::kMaxVectors >= 3 && vectors >= 3 && vectors != 4) {
        add_rows_to_keys<V, 3>(key_weights, weight_stride, rows + d, row_stride, lanes, key_out + d);
        vectors -= 3;
        d += 3 * V::kLanes;
      } else if (vectors >= 2) {
        add_rows_to_keys<V, 2>(key_weights, weight_stride, rows + d, row_stride, lanes, key_out + d);
        vectors -= 2;
        d += 2 * V::kLanes;
      } else {
        add_rows_to_keys<V, 1>(key_weights, weight_stride, rows + d, row_stride, lanes, key_out + d);
        vectors -= 1;
        d += V::kLanes;
      }
    }
  }
}

/// add_rows_to_tile for rows with infinite or NaN values: a weight of 0 contributes nothing instead of 0 * inf = NaN.
template <class V>
void add_nonfinite_rows_to_tile(const typename V::Scalar* weights, std::ptrdiff_t weight_stride,
                                const typename V::Scalar* rows, std::ptrdiff_t row_stride, int lanes, int begin,
                                int end, typename V::Scalar* out) {
  for (int key = begin; key < end; ++key) {
    for (int lane = 0; lane < lanes; ++lane) {
      const typename V::Scalar weight = weights[key * weight_stride + lane];
      if (weight == 0) continue;
      for (std::ptrdiff_t d = 0; d < row_stride; d += V::kLanes) {
        typename V::Scalar* const p = out + key * row_stride + d;
        V::store(p, V::fma(V::set1(weight), V::load(rows + lane * row_stride + d), V::load(p)));
      }
    }
  }
}

}  // namespace modelopt::kernels::cpu
