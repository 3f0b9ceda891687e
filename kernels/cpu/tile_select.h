// What a tile of scores keeps: visibility by position, N:M selection, and passes that look without changing.
//
// A tile is key-major, scores[key][lane], so a group of M consecutive keys is M vectors and all lanes select at once.
// A key that is not attended is overwritten with -inf. Positions are relative to the tile's first key, as scalars of
// the scores' type (exact: they are clamped to the tile).
#pragma once

#include <cstdint>
#include <limits>

namespace modelopt::kernels::cpu {

/// The keys [first, last] of a tile that something holds for, per lane; none where last < first.
template <typename T, int Lanes>
struct LaneRange {
  alignas(64) T first[Lanes];
  alignas(64) T last[Lanes];
};

/// Lanes whose range holds `key`.
template <class V>
[[gnu::always_inline]] inline typename V::Mask in_range(const typename V::Scalar* first, const typename V::Scalar* last,
                                                        typename V::Reg key) {
  return V::both(V::not_less(key, V::load(first)), V::not_less(V::load(last), key));
}

/// scores[key][lane] = -inf outside of the lane's visible range, for keys in [begin, end).
template <class V, int NV, class Range>
void hide_invisible(typename V::Scalar* scores, int begin, int end, const Range& visible) {
  using T = typename V::Scalar;
  const typename V::Reg hidden = V::set1(-std::numeric_limits<T>::infinity());
  for (int key = begin; key < end; ++key) {
    const typename V::Reg index = V::set1(static_cast<T>(key));
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      T* p = scores + (key * NV + v) * V::kLanes;
      const typename V::Mask seen = in_range<V>(visible.first + v * V::kLanes, visible.last + v * V::kLanes, index);
      V::store(p, V::blend(seen, V::load(p), hidden));
    }
  }
}

/// Which keys of a tile are attended whatever the selection says.
template <class Range>
struct DenseKeys {
  Range window;  ///< per lane
  int sinks;     ///< keys of the tile before this one, for all lanes
};

/// Counts, for each key of a group in each lane, the keys of the group that win over it (kernels/selection.h: the
/// larger score, and of equal ones the lower index). Each pair is compared once: key j starts from the M-1-j later keys
/// as if all of them won over it.
template <class V, int M>
[[gnu::always_inline]] inline void count_better(const typename V::Reg (&score)[M], typename V::Reg (&better)[M]) {
  using T = typename V::Scalar;
  const typename V::Reg one = V::set1(T(1));
#pragma GCC unroll 8
  for (int j = 0; j < M; ++j) better[j] = V::set1(static_cast<T>(M - 1 - j));
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int j = i + 1; j < M; ++j) {
      const typename V::Mask wins = V::not_less(score[i], score[j]);
      better[i] = V::sub_if(wins, better[i], one);
      better[j] = V::add_if(wins, better[j], one);
    }
  }
}

/// N:M selection over keys [begin, end), multiples of M: what is neither kept nor dense becomes -inf. Lanes that see a
/// NaN or +inf score are added to `poisoned`: their row is NaN, whatever is dropped here.
template <class V, int NV, int M, bool HasDense, class Range>
void select_tile(typename V::Scalar* scores, int begin, int end, int n, const DenseKeys<Range>& dense,
                 typename V::Mask (&poisoned)[NV]) {
  using T = typename V::Scalar;
  using Reg = typename V::Reg;
  const Reg infinity = V::set1(std::numeric_limits<T>::infinity());
  const Reg dropped = V::set1(-std::numeric_limits<T>::infinity());
  const Reg limit = V::set1(static_cast<T>(n));
  for (int group = begin; group < end; group += M) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      T* p = scores + (group * NV + v) * V::kLanes;
      Reg score[M];
      Reg better[M];
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        score[i] = V::load(p + i * NV * V::kLanes);
        poisoned[v] = V::either(poisoned[v], V::not_less(score[i], infinity));
      }
      count_better<V, M>(score, better);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        typename V::Mask keep = V::less(better[i], limit);
        if constexpr (HasDense) {
          const int key = group + i;
          if (key < dense.sinks) continue;
          const typename V::Mask in_window = in_range<V>(
              dense.window.first + v * V::kLanes, dense.window.last + v * V::kLanes, V::set1(static_cast<T>(key)));
          keep = V::either(keep, in_window);
        }
        V::store(p + i * NV * V::kLanes, V::blend(keep, score[i], dropped));
      }
    }
  }
}

/// Maxima per lane over keys [begin, end), NaN ignored.
template <class V, int NV>
[[gnu::always_inline]] inline void tile_max(const typename V::Scalar* scores, int begin, int end,
                                            typename V::Reg (&largest)[NV]) {
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) largest[v] = V::set1(-std::numeric_limits<typename V::Scalar>::infinity());
  for (int key = begin; key < end; ++key) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) largest[v] = V::max(V::load(scores + (key * NV + v) * V::kLanes), largest[v]);
  }
}

/// Calls visit(key, v, bits) for each key of [begin, end) and vector v: bit i of bits says that lane i's score is not
/// -inf.
template <class V, int NV, class Visit>
void for_each_present(const typename V::Scalar* scores, int begin, int end, Visit visit) {
  const typename V::Reg absent = V::set1(-std::numeric_limits<typename V::Scalar>::infinity());
  for (int key = begin; key < end; ++key) {
    for (int v = 0; v < NV; ++v) {
      visit(key, v, V::bits(V::unequal(V::load(scores + (key * NV + v) * V::kLanes), absent)));
    }
  }
}

}  // namespace modelopt::kernels::cpu
