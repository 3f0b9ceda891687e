// The backward of one task, on one instruction set: the forward's tiles once more, five products instead of two.
//
// Lanes are (query row, head) pairs, tiles key-major, as in flash_attention.h. Per tile of keys and block of lanes:
//
//     scores[key][lane] = K q                 score_tile, then the forward's own visibility, selection and votes
//     grad_scores[key][lane] = V do           score_tile
//     p = 2^(c (x - center) + offset)         weights from the forward's log-sum-exp
//     ds = p (grad_scores + dL - do.o)        do.o summed in fp64
//     dv[key][d] += p do     dk[key][d] += ds (scale q)      add_rows_to_tile
//     dq[d][lane] += K^T ds                   weigh_tile; times scale at the end
//
// The mask is the forward's, bit for bit, because it is decided again from the same scores: a score is one chain of
// fused multiply-adds over d in the forward and here (the same score_tile), whatever tile or task it lies in, and
// selection compares nothing else; with skip-softmax a task is the forward's query block, and goes through its blocks
// in the same order. Storing it instead is no gain on a CPU: it adds a fifth and more to the forward's time, and would
// save the selection only: the weights need the scores (docs/benchmarks/cpu-attention.md, "Backward").
//
// dq belongs to the task. dk and dv of a tile are summed over the task's lanes in ascending order, in scratch, and then
// added to those of earlier tasks in the order of the chain (backward_turn.h): the bits do not depend on the number of
// threads, and no buffer grows with Lq * Lk.
//
// Scratch: beyond the forward's, dO in lanes and q, dO in rows, a tile of dk and dv: with D = 128, fp32 and 192 lanes,
// 0.7 MiB in all.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "kernels/cpu/backward_call.h"
#include "kernels/cpu/backward_product.h"
#include "kernels/cpu/backward_scratch.h"
#include "kernels/cpu/flash_attention.h"

namespace modelopt::kernels::cpu {

template <class V, typename Element>
class AttentionBackward : FlashAttention<V, Element> {
  using Forward = FlashAttention<V, Element>;
  using Forward::head_dim_, Forward::lanes_, Forward::padded_dim_, Forward::s_, Forward::task_;
  using typename Forward::Mask;
  using typename Forward::Span;

 public:
  using T = typename V::Scalar;
  using Reg = typename V::Reg;
  using Forward::kBlockLanes;

  static std::size_t scratch_bytes(int head_dim, std::int64_t lanes) {
    return Forward::scratch_bytes(head_dim, lanes) + BackwardScratch<V>(nullptr, head_dim, lanes).bytes();
  }

  static void run(const BackwardCall& call, const BackwardTask& task, void* memory) {
    AttentionBackward(call, task, memory).run();
  }

 private:
  AttentionBackward(const BackwardCall& call, const BackwardTask& task, void* memory)
      : Forward(call.forward, task.rows, memory, /*stats=*/nullptr),
        backward_(call),
        turn_(*task.turn),
        g_(static_cast<char*>(memory) + s_.bytes(), head_dim_, lanes_),
        row_length_(BackwardScratch<V>::padded_row(head_dim_)) {}

  void run() {
    this->load_queries();
    load_gradients();
    const std::int64_t begin = this->first_visible(s_.position[0]);
    const std::int64_t end = this->last_visible(s_.position[lanes_ - 1]) + 1;
    const auto go = [&](std::int64_t from, std::int64_t to) { differentiate_tiles(from, to); };
    if (this->skips()) {
      this->for_each_unskipped_block(begin, end, go);
    } else {
      go(begin / kSubtile * kSubtile, end);
    }
    if (backward_.grad_q != nullptr) store_grad_q();
    await_turn(turn_, end);  // keys that were skipped or not seen
    pass_turn(turn_, std::numeric_limits<std::int64_t>::max());
  }

  [[nodiscard]] bool wants_grad_scores() const { return backward_.grad_q != nullptr || backward_.grad_k != nullptr; }

  // --- rows in and out ---------------------------------------------------------------------------

  /// Fills what the lanes need besides the forward's. Lanes that pad the last vector repeat the last row.
  void load_gradients() {
    for (std::int64_t lane = 0; lane < round_up(lanes_, V::kLanes); ++lane) {
      const std::int64_t source = std::min(lane, lanes_ - 1);
      const T* const row = g_.grad_out_rows + source * row_length_;
      if (lane < lanes_) load_rows(lane);
      const std::int64_t block = lane / kBlockLanes * kBlockLanes;
      const int stride = this->block_stride(block);
      T* const target = g_.grad_out + block * head_dim_ + (lane - block);
      for (int d = 0; d < head_dim_; ++d) target[static_cast<std::ptrdiff_t>(d) * stride] = row[d];
      load_softmax(lane, row);
    }
  }

  /// The rows of one lane that dk and dv sum up.
  void load_rows(std::int64_t lane) {
    T* const q = g_.q_rows + lane * row_length_;
    T* const grad = g_.grad_out_rows + lane * row_length_;
    std::fill_n(grad, row_length_, T(0));
    std::fill_n(q, row_length_, T(0));
    RowConversion<V, Element>::load(this->element(this->call_.q, this->query_row(lane), this->query_head(lane)),
                                    head_dim_, q);
    const T scale = static_cast<T>(this->call_.softmax_scale);
    // a value that is not finite makes the row NaN, or meets weights of 0 only
    for (int d = 0; d < head_dim_; ++d) q[d] = finite(q[d]) ? q[d] * scale : T(0);
    if (backward_.grad_output == nullptr) return;
    RowConversion<V, Element>::load(result_row(backward_.grad_output, lane), head_dim_, grad);
    for (int d = 0; d < head_dim_; ++d) finite_grad_ = finite_grad_ && finite(grad[d]);
  }

  /// weight = 2^(c (x - center) + offset) and bias of one lane. The difference to the rounded center is exact where it
  /// matters, so that large scores cost no digits.
  void load_softmax(std::int64_t lane, const T* grad) {
    const std::int64_t row = s_.result_row[lane];
    const double logsumexp = static_cast<const T*>(this->call_.logsumexp)[row];
    const double scale = this->call_.softmax_scale;
    T center = static_cast<T>(logsumexp / scale);
    if (std::isinf(center)) center = 0;  // nothing attended, or a tiny scale
    g_.center[lane] = center;
    g_.offset[lane] = std::isinf(logsumexp) ? T(0) : static_cast<T>((scale * center - logsumexp) * Forward::kLog2E);
    double bias = 0;
    if (backward_.grad_logsumexp != nullptr) bias = static_cast<const T*>(backward_.grad_logsumexp)[row];
    if (backward_.grad_output != nullptr) bias -= product_with_output(lane, grad);
    g_.bias[lane] = static_cast<T>(bias);
  }

  [[nodiscard]] double product_with_output(std::int64_t lane, const T* grad) const {
    RowConversion<V, Element>::load(result_row(this->call_.output, lane), head_dim_, s_.row);
    double sum = 0;
    for (int d = 0; d < head_dim_; ++d) sum += static_cast<double>(grad[d]) * static_cast<double>(s_.row[d]);
    return sum;
  }

  /// The lane's row of a tensor [total_q, num_heads, D].
  const Element* result_row(const void* data, std::int64_t lane) const {
    return static_cast<const Element*>(data) + s_.result_row[lane] * head_dim_;
  }

  static bool finite(T x) { return x - x == 0; }

  void store_grad_q() {
    for (std::int64_t lane = 0; lane < lanes_; ++lane) {
      const std::int64_t block = lane / kBlockLanes * kBlockLanes;
      const int stride = this->block_stride(block);
      const T* const source = s_.out + block * padded_dim_ + (lane - block);
      const std::int64_t index = s_.result_row[lane];
      const T logsumexp = static_cast<const T*>(this->call_.logsumexp)[index];
      // A NaN row is NaN even where all that it attends to was skipped.
      const T factor = logsumexp == logsumexp ? static_cast<T>(this->call_.softmax_scale) : Forward::kNaN;
      for (int d = 0; d < head_dim_; ++d) s_.row[d] = source[static_cast<std::ptrdiff_t>(d) * stride] * factor;
      RowConversion<V, Element>::store(s_.row, head_dim_, static_cast<Element*>(backward_.grad_q) + index * head_dim_);
    }
  }

  // --- tiles -------------------------------------------------------------------------------------

  /// Keys [begin, end) tile by tile; begin is a multiple of 8.
  void differentiate_tiles(std::int64_t begin, std::int64_t end) {
    while (begin < end) {
      const std::int64_t tile_end = std::min(end, begin / kKeyTile * kKeyTile + kKeyTile);
      this->load_tile(this->call_.k, begin, tile_end, s_.k_tile);
      if (wants_grad_scores()) this->load_tile(this->call_.v, begin, tile_end, s_.v_tile);
      const T* const finite_k =
          this->is_finite(s_.k_tile, tile_end - begin) ? s_.k_tile : make_k_finite(tile_end - begin);
      std::fill_n(g_.grad_k, kKeyTile * row_length_, T(0));
      std::fill_n(g_.grad_v, kKeyTile * row_length_, T(0));
      for (std::int64_t block = 0; block < lanes_; block += kBlockLanes) {
        this->with_vectors(block, [&](auto nv) { differentiate_tile<nv.value>(block, begin, tile_end, finite_k); });
      }
      await_turn(turn_, tile_end);
      add_to_keys(backward_.grad_k, g_.grad_k, begin, tile_end);
      add_to_keys(backward_.grad_v, g_.grad_v, begin, tile_end);
      pass_turn(turn_, tile_end);
      begin = tile_end;
    }
  }

  /// A key that is not finite makes rows NaN, or is seen by none.
  const T* make_k_finite(std::int64_t keys) {
    const std::int64_t count = round_up(keys, kSubtile) * padded_dim_;
    for (std::int64_t i = 0; i < count; ++i) g_.finite_k[i] = finite(s_.k_tile[i]) ? s_.k_tile[i] : T(0);
    return g_.finite_k;
  }

  void add_to_keys(void* gradient, const T* tile, std::int64_t begin, std::int64_t end) const {
    if (gradient == nullptr) return;
    for (std::int64_t key = begin; key < end; ++key, tile += row_length_) {
      T* const target =
          static_cast<T*>(gradient) + ((task_.k_start + key) * backward_.num_kv_heads + task_.kv_head) * head_dim_;
      for (int d = 0; d < head_dim_; ++d) target[d] += tile[d];
    }
  }

  template <int NV>
  void differentiate_tile(std::int64_t block, std::int64_t begin, std::int64_t end, const T* finite_k) {
    const Span span = this->template score_visible<NV>(block, begin, end);
    if (span.empty()) return;
    Mask poisoned[NV];
    this->template decide<NV>(block, begin, span, poisoned);
    const bool has_grad_output = backward_.grad_output != nullptr;
    if (wants_grad_scores() && !has_grad_output) {
      std::fill(g_.grad_scores + span.begin * NV * V::kLanes, g_.grad_scores + span.end * NV * V::kLanes, T(0));
    } else if (wants_grad_scores()) {
      score_tile<V, NV>(s_.v_tile, padded_dim_, g_.grad_out + block * head_dim_, head_dim_, span.begin, span.end,
                        g_.grad_scores);
    }
    differentiate_softmax<NV>(block, span);

    constexpr int kStride = NV * V::kLanes;
    const int rows = static_cast<int>(this->last_lane(block) - block + 1);
    if (backward_.grad_v != nullptr && has_grad_output) {
      const auto add = finite_grad_ ? &add_rows_to_tile<V> : &add_nonfinite_rows_to_tile<V>;
      add(s_.scores, kStride, g_.grad_out_rows + block * row_length_, row_length_, rows, span.begin, span.end,
          g_.grad_v);
    }
    if (backward_.grad_k != nullptr) {
      add_rows_to_tile<V>(g_.grad_scores, kStride, g_.q_rows + block * row_length_, row_length_, rows, span.begin,
                          span.end, g_.grad_k);
    }
    if (backward_.grad_q != nullptr) {
      Reg keep[NV];
      for (int v = 0; v < NV; ++v) keep[v] = V::set1(1);
      weigh_tile<V, NV>(finite_k, padded_dim_, g_.grad_scores, padded_dim_, span.begin, span.end, keep,
                        s_.out + block * padded_dim_);
    }
  }

  /// scores become p and grad_scores ds; both are exactly 0 where a row does not attend, whatever the row holds.
  template <int NV>
  void differentiate_softmax(std::int64_t block, Span span) {
    const Reg scale = V::set1(this->exponent_scale_);
    const Reg unattended = V::set1(-Forward::kInfinity);
    const Reg zero = V::set1(0);
    for (int key = span.begin; key < span.end; ++key) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) {
        const std::int64_t lane = block + v * V::kLanes;
        T* const p = s_.scores + (key * NV + v) * V::kLanes;
        T* const ds = g_.grad_scores + (key * NV + v) * V::kLanes;
        const Reg score = V::load(p);
        const Mask attended = V::unequal(score, unattended);
        const Reg exponent = V::fma(scale, V::sub(score, V::load(g_.center + lane)), V::load(g_.offset + lane));
        const Reg weight = V::blend(attended, exp2<V>(exponent), zero);
        V::store(p, weight);
        if (!wants_grad_scores()) continue;
        const Reg grad = V::mul(weight, V::add(V::load(ds), V::load(g_.bias + lane)));
        V::store(ds, V::blend(attended, grad, zero));
      }
    }
  }

  const BackwardCall& backward_;
  KeyTurn& turn_;
  BackwardScratch<V> g_;
  const std::int64_t row_length_;
  bool finite_grad_ = true;
};

template <class V, typename Element>
constexpr BackwardKernel backward_kernel() {
  using Backward = AttentionBackward<V, Element>;
  return {.block_lanes = Backward::kBlockLanes, .scratch_bytes = &Backward::scratch_bytes, .run = &Backward::run};
}

template <class FloatVec, class DoubleVec>
constexpr BackwardKernels backward_kernels() {
  return {.float32 = backward_kernel<FloatVec, float>(),
          .bfloat16 = backward_kernel<FloatVec, BFloat16>(),
          .float16 = backward_kernel<FloatVec, Half>(),
          .float64 = backward_kernel<DoubleVec, double>()};
}

}  // namespace modelopt::kernels::cpu
