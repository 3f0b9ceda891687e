// Tiled attention with online softmax for one task, on one instruction set.
//
// Tiles are key-major: lanes are (query row, head) pairs, row-major, of all query heads that share the key head, so K
// and V are loaded and converted once for the group, and a group of M keys is M vectors. Blocks of kMaxVectors vectors
// of lanes go through a tile one after another:
//
//     scores[key][lane] = K q        score_tile        invisible and unselected keys become -inf       tile_select.h
//     weights = 2^(c (x - max))      soften            c = scale * log2(e); max is the row's running maximum
//     out[d][lane] = out * 2^(c (old max - max)) + V^T weights       weigh_tile
//
// A row's bits depend on nothing but the row, its keys and the parameters. Not on the chunk, the batch, the task, the
// thread, masks or statistics, because
// - every score is one chain of fused multiply-adds over d; every weighted sum one over the keys of a tile, from 0, and
//   then one over the tiles; the sum of the weights alike;
// - tiles start at multiples of kKeyTile from the sequence's first key (with skip-softmax they also end at its blocks);
// - a key that a row does not attend has the weight +0, which changes no sum but the sign of a zero, and the
//   last step makes zeros positive; so clipping a tile to the keys that some lane sees is free.
//
// Scratch: q and out of the task, [block][D][lanes] each; one tile of K, V (kKeyTile x D) and scores (kKeyTile x lanes
// of a block): with D = 128, fp32 and 384 lanes, 470 KiB. Nothing grows with the number of keys.
#pragma once

#include <math.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

#include "kernels/cpu/attention_call.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/exp2.h"
#include "kernels/cpu/flash_scratch.h"
#include "kernels/cpu/tile_product.h"
#include "kernels/cpu/tile_select.h"

namespace modelopt::kernels::cpu {

template <class V, typename Element>
class FlashAttention {
 public:
  using T = typename V::Scalar;
  using Reg = typename V::Reg;
  static constexpr int kBlockLanes = V::kMaxVectors * V::kLanes;

  static std::size_t scratch_bytes(int head_dim, std::int64_t lanes) {
    return FlashScratch<V>(nullptr, head_dim, lanes).bytes();
  }

  static void run(const AttentionCall& call, const AttentionTask& task, void* memory, AttentionStats* stats) {
    FlashAttention(call, task, memory, stats).run();
  }

  static void calibrate(const AttentionCall& call, const AttentionTask& task, void* memory, const SkipTrials& trials) {
    FlashAttention(call, task, memory, nullptr, &trials).run();
  }

 protected:  // the backward (backward_kernel.h) goes through the same tiles
  using Mask = typename V::Mask;
  static constexpr T kInfinity = std::numeric_limits<T>::infinity();
  static constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();
  static constexpr double kLog2E = 1.4426950408889634074;

  FlashAttention(const AttentionCall& call, const AttentionTask& task, void* memory, AttentionStats* stats,
                 const SkipTrials* trials = nullptr)
      : call_(call),
        task_(task),
        stats_(stats),
        trials_(trials),
        s_(memory, call.head_dim, task.row_count * task.head_count),
        lanes_(task.row_count * task.head_count),
        head_dim_(call.head_dim),
        padded_dim_(static_cast<int>(round_up(call.head_dim, kSubtile))),
        exponent_scale_(static_cast<T>(call.softmax_scale * kLog2E)) {}

  void run() {
    load_queries();
    if (call_.mask != nullptr) clear_mask();
    const std::int64_t begin = first_visible(s_.position[0]);
    const std::int64_t end = last_visible(s_.position[lanes_ - 1]) + 1;
    if (skips()) {
      for_each_unskipped_block(begin, end, [&](std::int64_t from, std::int64_t to) { attend_tiles(from, to); });
    } else {
      if (trials_ != nullptr) forget_blocks(0, FlashScratch<V>::kTileBlocks);
      attend_tiles(begin / kSubtile * kSubtile, end);
    }
    for (std::int64_t block = 0; block < lanes_; block += kBlockLanes) normalize(block);
    store_results();
  }

  // --- positions ---------------------------------------------------------------------------------

  /// Keys that a row at position p may see: [first_visible, last_visible], both ascending in p.
  [[nodiscard]] std::int64_t first_visible(std::int64_t p) const {
    return call_.sliding_window > 0 ? std::max<std::int64_t>(0, p - call_.sliding_window + 1) : 0;
  }
  [[nodiscard]] std::int64_t last_visible(std::int64_t p) const {
    return call_.is_causal ? std::min(p, task_.k_len - 1) : task_.k_len - 1;
  }
  [[nodiscard]] std::int64_t window_begin(std::int64_t p) const { return p - call_.dense_window_size + 1; }

  static T relative(std::int64_t key, std::int64_t tile_begin) {
    return static_cast<T>(std::clamp<std::int64_t>(key - tile_begin, -1, kKeyTile));
  }

  [[nodiscard]] std::int64_t last_lane(std::int64_t block) const { return std::min(block + kBlockLanes, lanes_) - 1; }

  // --- rows in and out ---------------------------------------------------------------------------

  const Element* element(const PackedRows& rows, std::int64_t row, std::int64_t head) const {
    return static_cast<const Element*>(rows.data) + row * rows.row_stride + head * rows.head_stride;
  }
  [[nodiscard]] std::int64_t query_row(std::int64_t lane) const {
    return task_.q_start + task_.row_begin + lane / task_.head_count;
  }
  [[nodiscard]] std::int64_t query_head(std::int64_t lane) const { return task_.head_begin + lane % task_.head_count; }

  /// Lanes of the block that starts at lane `block`, padded to whole vectors: the row length of its q and out.
  [[nodiscard]] int block_stride(std::int64_t block) const {
    return static_cast<int>(round_up(last_lane(block) - block + 1, V::kLanes));
  }

  /// Fills q, position and the empty state. Lanes that pad the last vector repeat the last row.
  void load_queries() {
    for (std::int64_t lane = 0; lane < round_up(lanes_, V::kLanes); ++lane) {
      const std::int64_t source = std::min(lane, lanes_ - 1);
      const std::int64_t block = lane / kBlockLanes * kBlockLanes;
      const int stride = block_stride(block);
      RowConversion<V, Element>::load(element(call_.q, query_row(source), query_head(source)), head_dim_, s_.row);
      T* target = s_.q + block * head_dim_ + (lane - block);
      for (int d = 0; d < head_dim_; ++d) target[static_cast<std::ptrdiff_t>(d) * stride] = s_.row[d];
      s_.result_row[lane] = query_row(source) * call_.num_heads + query_head(source);
      s_.position[lane] = task_.row_begin + source / task_.head_count + task_.k_len - task_.q_len;
      s_.max[lane] = s_.running_max[lane] = -kInfinity;
      s_.sum[lane] = 0;
    }
    std::fill_n(s_.out, round_up(lanes_, V::kLanes) * padded_dim_, T(0));
    finite_values_ = true;
  }

  /// Converts rows of keys [begin, end) into a tile, padded with zeros to whole subtiles and padded_dim.
  void load_tile(const PackedRows& rows, std::int64_t begin, std::int64_t end, T* tile) const {
    T* target = tile;
    for (std::int64_t key = begin; key < end; ++key, target += padded_dim_) {
      RowConversion<V, Element>::load(element(rows, task_.k_start + key, task_.kv_head), head_dim_, target);
      std::fill_n(target + head_dim_, padded_dim_ - head_dim_, T(0));
    }
    std::fill(target, tile + round_up(end - begin, kSubtile) * padded_dim_, T(0));
  }

  /// Whether a tile of `keys` keys holds neither inf nor NaN.
  [[nodiscard]] bool is_finite(const T* tile, std::int64_t keys) const {
    Reg sum = V::set1(0);
    for (const T* p = tile; p < tile + round_up(keys, kSubtile) * padded_dim_; p += V::kLanes) {
      sum = V::fma(V::load(p), V::set1(0), sum);
    }
    return V::bits(V::unequal(sum, V::set1(0))) == 0;
  }

  /// out /= sum; a row that attended nothing has 0. Adding 0 turns -0 into 0 (see the top of the file).
  void normalize(std::int64_t block) {
    const int stride = block_stride(block);
    for (int i = 0; i < stride; i += V::kLanes) {
      const Reg sum = V::load(s_.sum + block + i);
      const Reg max = V::load(s_.max + block + i);
      const typename V::Mask some = V::either(V::unequal(max, V::set1(-kInfinity)), V::unequal(sum, V::set1(0)));
      const Reg divisor = V::blend(some, sum, V::set1(1));
      T* p = s_.out + block * padded_dim_ + i;
      for (int d = 0; d < head_dim_; ++d, p += stride) V::store(p, V::add(V::div(V::load(p), divisor), V::set1(0)));
    }
  }

  void store_results() {
    for (std::int64_t lane = 0; lane < lanes_; ++lane) {
      const std::int64_t block = lane / kBlockLanes * kBlockLanes;
      const int stride = block_stride(block);
      const T* source = s_.out + block * padded_dim_ + (lane - block);
      for (int d = 0; d < head_dim_; ++d) s_.row[d] = source[static_cast<std::ptrdiff_t>(d) * stride];
      const std::int64_t index = s_.result_row[lane];
      RowConversion<V, Element>::store(s_.row, head_dim_, static_cast<Element*>(call_.output) + index * head_dim_);
      const bool none = s_.max[lane] == -kInfinity && s_.sum[lane] == 0;
      static_cast<T*>(call_.logsumexp)[index] =
          none ? -kInfinity
               : static_cast<T>(call_.softmax_scale * s_.max[lane] + ::log(static_cast<double>(s_.sum[lane])));
    }
  }

  void clear_mask() {
    for (std::int64_t lane = 0; lane < lanes_; ++lane) {
      std::fill_n(call_.mask + s_.result_row[lane] * call_.mask_bytes, call_.mask_bytes, std::uint8_t{0});
    }
  }

  // --- tiles -------------------------------------------------------------------------------------

  /// The keys of a tile that some lane of a block may see, relative to the tile's first, widened to whole subtiles.
  struct Span {
    int begin;
    int end;
    [[nodiscard]] bool empty() const { return begin >= end; }
  };

  /// Calls body with std::integral_constant<int, NV>, NV being the vectors of the block.
  template <class Body>
  void with_vectors(std::int64_t block, Body body) {
    const int vectors = block_stride(block) / V::kLanes;
    if constexpr (V::kMaxVectors >= 3) {
      if (vectors == 3) return body(std::integral_constant<int, 3>{});
    }
    if (vectors == 2) return body(std::integral_constant<int, 2>{});
    body(std::integral_constant<int, 1>{});
  }

  /// Attends keys [begin, end) tile by tile; begin is a multiple of 8.
  void attend_tiles(std::int64_t begin, std::int64_t end) {
    while (begin < end) {
      const std::int64_t tile_end = std::min(end, begin / kKeyTile * kKeyTile + kKeyTile);
      if (begin != voted_tile_) load_tile(call_.k, begin, tile_end, s_.k_tile);
      load_tile(call_.v, begin, tile_end, s_.v_tile);
      finite_values_ = finite_values_ && is_finite(s_.v_tile, tile_end - begin);
      for (std::int64_t block = 0; block < lanes_; block += kBlockLanes) {
        with_vectors(block, [&](auto nv) { attend_tile<nv.value>(block, begin, tile_end); });
      }
      if (stats_ != nullptr) count_visible_blocks(begin);
      if (trials_ != nullptr) decide_trials(begin, tile_end, end);
      begin = tile_end;
    }
  }

  template <int NV>
  void attend_tile(std::int64_t block, std::int64_t begin, std::int64_t end) {
    const Span span = score_visible<NV>(block, begin, end);
    if (span.empty()) return;
    if (stats_ != nullptr) count_visible<NV>(block, span, s_.scores);
    if (trials_ != nullptr) note_tile_blocks<NV>(block, begin, span);
    Mask poisoned[NV];
    decide<NV>(block, begin, span, poisoned);
    if (stats_ != nullptr || call_.mask != nullptr) record_attended<NV>(block, begin, span);

    Reg rescale[NV];
    soften<NV>(block, span, poisoned, rescale);
    T* const out = s_.out + block * padded_dim_;
    if (finite_values_) {
      weigh_tile<V, NV>(s_.v_tile, padded_dim_, s_.scores, padded_dim_, span.begin, span.end, rescale, out);
    } else {
      weigh_nonfinite_tile<V, NV>(s_.v_tile, padded_dim_, s_.scores, padded_dim_, span.begin, span.end, rescale, out);
    }
  }

  /// Visible scores become attended ones: the others -inf. Lanes that see a NaN or +inf score here are `poisoned`.
  template <int NV>
  void decide(std::int64_t block, std::int64_t begin, Span span, Mask (&poisoned)[NV]) {
    if (skips()) {
      Reg largest[NV];
      tile_max<V, NV>(s_.scores, span.begin, span.end, largest);
      for (int v = 0; v < NV; ++v) raise(s_.running_max + block + v * V::kLanes, largest[v]);
    }
    for (int v = 0; v < NV; ++v) poisoned[v] = V::none();
    if (task_.sparse_nm) select<NV>(block, begin, span, poisoned);
  }

  /// Keys of the tile [begin, end) that some lane of a block may see, and whether every lane may see all of them.
  [[nodiscard]] std::pair<Span, bool> visible_span(std::int64_t block, std::int64_t begin, std::int64_t end) const {
    const std::int64_t low = s_.position[block];
    const std::int64_t high = s_.position[last_lane(block)];
    const std::int64_t first = std::max(begin, first_visible(low) / kSubtile * kSubtile);
    const std::int64_t last = std::min(end - 1, last_visible(high));
    if (last < first) return {{0, 0}, true};
    const Span span{static_cast<int>(first - begin), static_cast<int>(round_up(last + 1 - begin, kSubtile))};
    return {span, first_visible(high) <= first && last_visible(low) >= begin + span.end - 1};
  }

  /// Scores of a block against the tile in k_tile into s_.scores, -inf where a lane does not see the key.
  template <int NV>
  Span score_visible(std::int64_t block, std::int64_t begin, std::int64_t end) {
    const auto [span, all_visible] = visible_span(block, begin, end);
    if (begin == voted_tile_) {
      constexpr int kLanes = NV * V::kLanes;
      std::copy(voted_scores(block) + span.begin * kLanes, voted_scores(block) + span.end * kLanes,
                s_.scores + span.begin * kLanes);
    } else {
      score_span<NV>(block, begin, span, all_visible, s_.scores);
    }
    return span;
  }

  template <int NV>
  void score_span(std::int64_t block, std::int64_t begin, Span span, bool all_visible, T* scores) {
    if (span.empty()) return;
    score_tile<V, NV>(s_.k_tile, padded_dim_, s_.q + block * head_dim_, head_dim_, span.begin, span.end, scores);
    if (all_visible) return;
    for (int i = 0; i < NV * V::kLanes; ++i) {
      const std::int64_t p = s_.position[block + i];
      s_.visible->first[i] = relative(first_visible(p), begin);
      s_.visible->last[i] = relative(last_visible(p), begin);
    }
    hide_invisible<V, NV>(scores, span.begin, span.end, *s_.visible);
  }

  template <int NV>
  void select(std::int64_t block, std::int64_t begin, Span span, Mask (&poisoned)[NV]) {
    const std::int64_t low = s_.position[block];
    const std::int64_t high = s_.position[last_lane(block)];
    const std::int64_t first = begin + span.begin;
    const std::int64_t last = begin + span.end - 1;
    const bool all_in_window = window_begin(high) <= first && (call_.is_causal || low >= last);
    if (all_in_window || last < call_.num_sink_tokens) return;  // nothing to drop
    const bool some_dense = (window_begin(low) <= last && high >= first) || first < call_.num_sink_tokens;
    if (some_dense) {
      for (int i = 0; i < NV * V::kLanes; ++i) {
        const std::int64_t p = s_.position[block + i];
        s_.dense->window.first[i] = relative(window_begin(p), begin);
        s_.dense->window.last[i] = relative(p, begin);
      }
      s_.dense->sinks = static_cast<int>(std::clamp<std::int64_t>(call_.num_sink_tokens - begin, 0, kKeyTile));
    }
    if (call_.sparsity_m == 4) {
      select_groups<NV, 4>(span, some_dense, poisoned);
    } else {
      select_groups<NV, 8>(span, some_dense, poisoned);
    }
  }

  template <int NV, int M>
  void select_groups(Span span, bool some_dense, Mask (&poisoned)[NV]) {
    if (some_dense) {
      select_tile<V, NV, M, true>(s_.scores, span.begin, span.end, call_.sparsity_n, *s_.dense, poisoned);
    } else {
      select_tile<V, NV, M, false>(s_.scores, span.begin, span.end, call_.sparsity_n, *s_.dense, poisoned);
    }
  }

  /// Scores become weights; max and sum take them in; rescale is what the earlier weights are worth now.
  template <int NV>
  void soften(std::int64_t block, Span span, const Mask (&poisoned)[NV], Reg (&rescale)[NV]) {
    const Reg scale = V::set1(exponent_scale_);
    Reg largest[NV];
    Reg center[NV];
    Reg total[NV];
    tile_max<V, NV>(s_.scores, span.begin, span.end, largest);
    for (int v = 0; v < NV; ++v) {
      T* max = s_.max + block + v * V::kLanes;
      const Reg before = V::load(max);
      const Reg now = raise(max, largest[v]);
      // a row that has attended nothing yet keeps its weights 2^-inf = 0
      center[v] = V::blend(V::unequal(now, V::set1(-kInfinity)), now, V::set1(0));
      rescale[v] = exp2<V>(V::mul(V::sub(before, center[v]), scale));
      total[v] = V::set1(0);
    }
    for (int key = span.begin; key < span.end; ++key) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) {
        T* p = s_.scores + (key * NV + v) * V::kLanes;
        const Reg weight = exp2<V>(V::mul(V::sub(V::load(p), center[v]), scale));
        total[v] = V::add(total[v], weight);
        V::store(p, weight);
      }
    }
    for (int v = 0; v < NV; ++v) {
      T* sum = s_.sum + block + v * V::kLanes;
      V::store(sum, V::blend(poisoned[v], V::set1(kNaN), V::fma(V::load(sum), rescale[v], total[v])));
    }
  }

  /// *p = max(*p, x) per lane, NaN in x ignored. Returns the new values.
  static Reg raise(T* p, Reg x) {
    const Reg raised = V::max(x, V::load(p));
    V::store(p, raised);
    return raised;
  }

  // --- skip-softmax ------------------------------------------------------------------------------

  [[nodiscard]] bool skips() const { return task_.log_lambda > -std::numeric_limits<float>::infinity(); }

  enum class Verdict { kUnseen, kSkip, kAttend };

  /// Goes through the key blocks in ascending order; each is scored until some row votes against skipping it, and then
  /// goes to attend(from, to), which raises running_max.
  template <class Attend>
  void for_each_unskipped_block(std::int64_t begin, std::int64_t end, Attend attend) {
    for (std::int64_t block = begin / call_.skip_bc * call_.skip_bc; block < end; block += call_.skip_bc) {
      const std::int64_t from = std::max(block, begin / kSubtile * kSubtile);
      const std::int64_t to = std::min(end, block + call_.skip_bc);
      const std::int64_t counted = stats_ != nullptr ? stats_->pairs_visible : 0;
      const Verdict verdict = vote(from, to);
      seen_subtiles_ = 0;
      if (verdict == Verdict::kAttend) {
        if (stats_ != nullptr) stats_->pairs_visible = counted;  // the tiles count again, all of them
        attend(from, to);
      } else if (verdict == Verdict::kSkip && stats_ != nullptr) {
        ++stats_->blocks_visible;
        ++stats_->blocks_skipped;
      }
    }
  }

  Verdict vote(std::int64_t begin, std::int64_t end) {
    std::fill_n(s_.block_max, lanes_, -kInfinity);
    std::fill_n(s_.sees, lanes_, T(0));
    while (begin < end) {
      const std::int64_t tile_end = std::min(end, begin / kKeyTile * kKeyTile + kKeyTile);
      load_tile(call_.k, begin, tile_end, s_.k_tile);
      voted_tile_ = begin;
      for (std::int64_t block = 0; block < lanes_; block += kBlockLanes) {
        with_vectors(block, [&](auto nv) { note_key_block<nv.value>(block, begin, tile_end); });
      }
      // a larger maximum never turns a vote against skipping into one for it
      if (!every_row_votes_skip(s_.block_max, s_.running_max, s_.sees, lanes_, static_cast<T>(call_.softmax_scale),
                                task_.log_lambda)) {
        return Verdict::kAttend;
      }
      begin = tile_end;
    }
    return std::any_of(s_.sees, s_.sees + lanes_, [](T sees) { return sees != 0; }) ? Verdict::kSkip : Verdict::kUnseen;
  }

  /// Scores of the tile that was voted on last: it is scored once, for the vote and for what follows.
  [[nodiscard]] T* voted_scores(std::int64_t block) const { return s_.tile_scores + block * kKeyTile; }

  /// Scores a tile of a key block for its vote; a NaN or +inf makes the row NaN even if it will be skipped.
  template <int NV>
  void note_key_block(std::int64_t block, std::int64_t begin, std::int64_t end) {
    const auto [span, all_visible] = visible_span(block, begin, end);
    T* const scores = voted_scores(block);
    score_span<NV>(block, begin, span, all_visible, scores);
    if (stats_ != nullptr) count_visible<NV>(block, span, scores);
    if (all_visible && !span.empty() && note_finite_block<NV>(block, span, scores)) return;
    note_block_max<NV>(block, span, scores, s_.block_max, s_.sees);
    for (int v = 0; v < NV; ++v) {
      T* const p = s_.sum + block + v * V::kLanes;
      Reg sum = V::load(p);
      for (int key = span.begin; key < span.end; ++key) {
        const Reg score = V::load(scores + (key * NV + v) * V::kLanes);
        sum = V::blend(V::not_less(score, V::set1(kInfinity)), V::set1(kNaN), sum);
      }
      V::store(p, sum);
    }
  }

  /// The short way where every lane sees all keys and every score is finite; false, and nothing has changed, otherwise.
  template <int NV>
  bool note_finite_block(std::int64_t block, Span span, const T* scores) {
    Reg largest[NV];
    Reg zero[NV];  // NaN once a score is infinite or NaN
    for (int v = 0; v < NV; ++v) {
      largest[v] = V::set1(-kInfinity);
      zero[v] = V::set1(0);
    }
    for (int key = span.begin; key < span.end; ++key) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) {
        const Reg score = V::load(scores + (key * NV + v) * V::kLanes);
        largest[v] = V::max(score, largest[v]);
        zero[v] = V::fma(score, V::set1(0), zero[v]);
      }
    }
    for (int v = 0; v < NV; ++v) {
      if (V::bits(V::unequal(zero[v], V::set1(0))) != 0) return false;
    }
    for (int v = 0; v < NV; ++v) {
      raise(s_.block_max + block + v * V::kLanes, largest[v]);
      V::store(s_.sees + block + v * V::kLanes, V::set1(1));
    }
    return true;
  }

  /// Takes the scores of some keys of a tile into block_max and sees, [lanes] each.
  template <int NV>
  void note_block_max(std::int64_t block, Span span, const T* scores, T* block_max, T* sees) {
    for (int v = 0; v < NV; ++v) {
      const std::int64_t lane = block + v * V::kLanes;
      Reg largest = V::set1(-kInfinity);
      Reg seen = V::load(sees + lane);
      for (int key = span.begin; key < span.end; ++key) {
        const Reg score = V::load(scores + (key * NV + v) * V::kLanes);
        largest = V::max(score, largest);
        seen = V::blend(V::unequal(score, V::set1(-kInfinity)), V::set1(1), seen);
      }
      raise(block_max + lane, largest);
      V::store(sees + lane, seen);
    }
  }

  // --- attention_calibrate -----------------------------------------------------------------------
  // The key blocks that a tile touches have a row of block_max and sees each, the first of them row 0. A block that the
  // tile does not end moves to row 0 for the next one.

  [[nodiscard]] std::int64_t padded_lanes() const { return round_up(lanes_, V::kLanes); }

  void forget_blocks(std::int64_t first, std::int64_t end) {
    std::fill(s_.block_max + first * padded_lanes(), s_.block_max + end * padded_lanes(), -kInfinity);
    std::fill(s_.sees + first * padded_lanes(), s_.sees + end * padded_lanes(), T(0));
  }

  /// Takes the scores of the tile that starts at `begin` into the rows of its key blocks.
  template <int NV>
  void note_tile_blocks(std::int64_t block, std::int64_t begin, Span span) {
    const std::int64_t first = begin / call_.skip_bc, key_end = begin + span.end;
    for (std::int64_t key = begin + span.begin; key < key_end;) {
      const std::int64_t index = key / call_.skip_bc, next = std::min((index + 1) * call_.skip_bc, key_end);
      const Span part{static_cast<int>(key - begin), static_cast<int>(next - begin)};
      note_block_max<NV>(block, part, s_.scores, s_.block_max + (index - first) * padded_lanes(),
                         s_.sees + (index - first) * padded_lanes());
      key = next;
    }
  }

  /// Counts the key blocks that end in the tile [begin, end), for every trial; the last tile ends at `last_end`.
  void decide_trials(std::int64_t begin, std::int64_t end, std::int64_t last_end) {
    std::int64_t row = 0;
    for (std::int64_t index = begin / call_.skip_bc; index * call_.skip_bc < end; ++index, ++row) {
      T* const block_max = s_.block_max + row * padded_lanes();
      T* const sees = s_.sees + row * padded_lanes();
      if ((index + 1) * call_.skip_bc > end && end < last_end) {
        if (row == 0) return;
        std::copy_n(block_max, padded_lanes(), s_.block_max);
        std::copy_n(sees, padded_lanes(), s_.sees);
        forget_blocks(1, row + 1);
        return;
      }
      decide_block(block_max, sees);
    }
    forget_blocks(0, row);
  }

  void decide_block(const T* block_max, const T* sees) {
    if (std::none_of(sees, sees + lanes_, [](T seen) { return seen != 0; })) return;
    ++*trials_->blocks_visible;
    for (std::int64_t t = 0; t < trials_->count; ++t) {
      trials_->blocks_skipped[t] += every_row_votes_skip(block_max, s_.running_max, sees, lanes_,
                                                         static_cast<T>(call_.softmax_scale), trials_->log_lambda[t]);
    }
    for (std::int64_t lane = 0; lane < lanes_; ++lane) {
      s_.running_max[lane] = std::max(s_.running_max[lane], block_max[lane]);
    }
  }

  // --- statistics and mask -----------------------------------------------------------------------

  /// Bits of the lanes of vector v that stand for a row; the rest is padding.
  [[nodiscard]] std::uint32_t row_bits(std::int64_t block, int v) const {
    const std::int64_t rows = lanes_ - block - v * V::kLanes;
    return rows >= V::kLanes ? (1u << V::kLanes) - 1 : (1u << rows) - 1;
  }

  template <int NV>
  void count_visible(std::int64_t block, Span span, const T* scores) {
    for_each_present<V, NV>(scores, span.begin, span.end, [&](int key, int v, std::uint32_t lanes) {
      const int count = __builtin_popcount(lanes & row_bits(block, v));
      stats_->pairs_visible += count;
      if (count > 0) seen_subtiles_ |= 1u << (key / kSubtile);
    });
  }

  /// Counts the key blocks with a visible pair, of the tile that starts at `begin`.
  void count_visible_blocks(std::int64_t begin) {
    for (int i = 0; i < kKeyTile / kSubtile; ++i) {
      const std::int64_t block = (begin + i * kSubtile) / call_.skip_bc;
      if ((seen_subtiles_ >> i & 1u) == 0 || block == last_counted_block_) continue;
      ++stats_->blocks_visible;
      last_counted_block_ = block;
    }
    seen_subtiles_ = 0;
  }

  template <int NV>
  void record_attended(std::int64_t block, std::int64_t begin, Span span) {
    for_each_present<V, NV>(s_.scores, span.begin, span.end, [&](int key, int v, std::uint32_t lanes) {
      lanes &= row_bits(block, v);
      if (stats_ != nullptr) stats_->pairs_attended += __builtin_popcount(lanes);
      if (call_.mask == nullptr) return;
      const std::int64_t byte = (begin + key) / 8;
      const auto bit = static_cast<std::uint8_t>(1u << (key % 8));
      for (; lanes != 0; lanes &= lanes - 1) {
        const std::int64_t lane = block + v * V::kLanes + __builtin_ctz(lanes);
        call_.mask[s_.result_row[lane] * call_.mask_bytes + byte] |= bit;
      }
    });
  }

  const AttentionCall& call_;
  const AttentionTask& task_;
  AttentionStats* const stats_;     ///< null: not counted
  const SkipTrials* const trials_;  ///< null: no attention_calibrate
  FlashScratch<V> s_;
  const std::int64_t lanes_;
  const int head_dim_;
  const int padded_dim_;
  const T exponent_scale_;        ///< scale * log2(e)
  std::int64_t voted_tile_ = -1;  ///< first key of the tile in tile_scores
  bool finite_values_ = true;     ///< those of the tiles so far: out may be infinite or NaN otherwise
  std::uint32_t seen_subtiles_ = 0;
  std::int64_t last_counted_block_ = -1;
};

}  // namespace modelopt::kernels::cpu
