#include <modelopt/attention/eager_attention.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include <modelopt/error.h>

namespace modelopt::attention {
namespace {

// The one shape of a product of scores: [kRowTile, D] x [D, kKeyTile].
constexpr std::int64_t kRowTile = 64;
constexpr std::int64_t kKeyTile = 256;
// Bounds the scores of one softmax call (unless one query block has more): 8 MB in fp32. The softmax and the masks make
// a few tensors of that size, and they should stay in the caches.
constexpr std::int64_t kMaxScores = std::int64_t{1} << 21;

struct Sequence {
  std::int64_t q_start, q_len, k_start, k_len;
  std::size_t index;  // in the batch
};

// A slice of the work: some query rows of some query heads that read one key head.
struct Tile {
  std::int64_t row, rows;
  std::int64_t first_head, heads;
  std::int64_t keys;  // no row of the tile sees a key beyond [0, keys)
};

std::int64_t round_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b * b; }
std::int64_t modulo(std::int64_t a, std::int64_t b) { return ((a % b) + b) % b; }  // in [0, b), a may be negative

std::vector<std::int64_t> host_values(const at::Tensor& tensor) {
  const at::Tensor values = tensor.to(at::kCPU, at::kLong).contiguous();
  const auto* begin = values.const_data_ptr<std::int64_t>();
  return {begin, begin + values.numel()};
}

void check_rows(const char* what, std::size_t sequence, std::int64_t start, std::int64_t length, std::int64_t total) {
  MODELOPT_CHECK(start >= 0 && length >= 0 && start + length <= total, InvalidArgument, what, " of sequence ", sequence,
                 " are rows ", start, " to ", start + length, ", expected rows inside the tensor of ", total);
}

void check_tensors(const AttentionCall& call) {
  MODELOPT_CHECK(call.q.dim() == 3 && call.k.dim() == 3 && call.v.dim() == 3, InvalidArgument, "q, k, v have ",
                 call.q.dim(), ", ", call.k.dim(), ", ", call.v.dim(), " dimensions, expected 3 each");
  MODELOPT_CHECK(call.k.sizes() == call.v.sizes() && call.q.size(2) == call.k.size(2), InvalidArgument, "q, k, v are ",
                 call.q.sizes(), ", ", call.k.sizes(), ", ", call.v.sizes(),
                 ", expected [total_q, Hq, D], and [total_kv, Hkv, D] twice");
  MODELOPT_CHECK(call.k.size(1) > 0 && call.q.size(1) % call.k.size(1) == 0, InvalidArgument, "q has ", call.q.size(1),
                 " heads, expected a multiple of the ", call.k.size(1), " heads of k");
  MODELOPT_CHECK(call.q.scalar_type() == call.k.scalar_type() && call.q.scalar_type() == call.v.scalar_type(),
                 InvalidArgument, "q, k, v are ", call.q.scalar_type(), ", ", call.k.scalar_type(), ", ",
                 call.v.scalar_type(), ", expected one dtype");
  MODELOPT_CHECK(
      !at::GradMode::is_enabled() || !(call.q.requires_grad() || call.k.requires_grad() || call.v.requires_grad()),
      Unsupported, "eager attention has no gradient: use the fused backend, or disable gradients");
}

std::vector<Sequence> sequences_of(const AttentionCall& call) {
  const SequenceLayout& layout = call.layout;
  const auto q_start = host_values(layout.b_start_loc), q_len = host_values(layout.b_seq_len);
  const auto k_start = layout.b_start_loc_k ? host_values(*layout.b_start_loc_k) : q_start;
  const auto k_len = layout.b_seq_len_k ? host_values(*layout.b_seq_len_k) : q_len;
  const std::size_t batch = q_len.size();
  MODELOPT_CHECK(q_start.size() == batch && k_start.size() == batch && k_len.size() == batch, InvalidArgument,
                 "b_start_loc, b_seq_len, b_start_loc_k, b_seq_len_k have ", q_start.size(), ", ", batch, ", ",
                 k_start.size(), ", ", k_len.size(), " entries, expected one per sequence each");
  std::vector<Sequence> sequences;
  for (std::size_t b = 0; b < batch; ++b) {
    check_rows("queries", b, q_start[b], q_len[b], call.q.size(0));
    check_rows("keys", b, k_start[b], k_len[b], call.k.size(0));
    sequences.push_back({q_start[b], q_len[b], k_start[b], k_len[b], b});
  }
  return sequences;
}

// x [rows, heads, D] -> [heads, padded rows, D], contiguous, with zeros behind the rows.
at::Tensor by_head(const at::Tensor& x, at::ScalarType accumulate, std::int64_t tile) {
  const std::int64_t padding = round_up(x.size(0), tile) - x.size(0);
  return at::constant_pad_nd(x.to(accumulate), {0, 0, 0, 0, 0, padding}).transpose(0, 1).contiguous();
}

// One sequence of the call: padded copies of its queries and keys, and the results of its tiles.
class EagerSequence {
 public:
  EagerSequence(const AttentionPlan& plan, const AttentionCall& call, const Sequence& sequence)
      : plan_(plan),
        call_(call),
        sequence_(sequence),
        accumulate_(call.q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat),
        group_(call.q.size(1) / call.k.size(1)),
        first_position_(sequence.k_len - sequence.q_len),
        keys_(by_head(call.k.narrow(0, sequence.k_start, sequence.k_len), accumulate_, kKeyTile)),
        values_(call.v.narrow(0, sequence.k_start, sequence.k_len).to(accumulate_).transpose(0, 1).contiguous()) {}

  // Fills output [Lq, Hq, D] and adds to stats [Hq, 4] where it is defined.
  void run(const at::Tensor& output, const at::Tensor& stats) const {
    for (const Tile& tile : tiles()) {
      const at::Tensor raw = scores(tile);
      const at::Tensor visible = raw != -std::numeric_limits<double>::infinity();
      EagerSoftmax softmax = plan_.softmax({raw, call_.softmax_scale, first_position_ + tile.row, sequence_.index});
      check_softmax(softmax, raw);
      const at::Tensor result = weighted_values(softmax.probabilities, tile);
      const at::Tensor poisoned = (raw.isnan() | (raw == std::numeric_limits<double>::infinity())).any(2, true);
      result.masked_fill_(poisoned, std::numeric_limits<double>::quiet_NaN());
      output.narrow(0, tile.row, tile.rows).narrow(1, tile.first_head, tile.heads).copy_(result.transpose(0, 1));
      if (stats.defined()) {
        stats.narrow(0, tile.first_head, tile.heads).add_(count(tile, visible, softmax.attended & visible));
      }
    }
  }

 private:
  // Whole query blocks of one head at least; more blocks, and more heads of one key head, within the bound on scores.
  std::vector<Tile> tiles() const {
    const std::int64_t br = plan_.skip_softmax_br;
    const std::int64_t block = br * std::max<std::int64_t>(1, sequence_.k_len);
    const std::int64_t heads = std::clamp<std::int64_t>(kMaxScores / block, 1, group_);
    const std::int64_t span = br * std::max<std::int64_t>(1, kMaxScores / (block * heads));
    std::vector<Tile> result;
    for (std::int64_t row = 0; row < sequence_.q_len;) {
      const std::int64_t rows = std::min(span - modulo(first_position_ + row, br), sequence_.q_len - row);
      const std::int64_t end = first_position_ + row + rows;  // position behind the last row
      const std::int64_t keys = call_.is_causal ? std::clamp<std::int64_t>(end, 0, sequence_.k_len) : sequence_.k_len;
      for (std::int64_t head = 0; keys > 0 && head < call_.q.size(1);) {
        const std::int64_t count = std::min(heads, group_ - head % group_);
        result.push_back({row, rows, head, count, keys});
        head += count;
      }
      row += rows;
    }
    return result;
  }

  // [heads, rows, keys], -inf where the key is not visible
  at::Tensor scores(const Tile& tile) const {
    const std::int64_t padded_rows = round_up(tile.rows, kRowTile), padded_keys = round_up(tile.keys, kKeyTile);
    const at::Tensor rows = call_.q.narrow(0, sequence_.q_start + tile.row, tile.rows);
    const at::Tensor query = by_head(rows.narrow(1, tile.first_head, tile.heads), accumulate_, kRowTile);
    const at::Tensor key = keys_.select(0, tile.first_head / group_);
    at::Tensor padded = at::empty({tile.heads, padded_rows, padded_keys}, query.options());
    for (std::int64_t head = 0; head < tile.heads; ++head) {
      for (std::int64_t row = 0; row < padded_rows; row += kRowTile) {
        const at::Tensor query_tile = query.select(0, head).narrow(0, row, kRowTile);
        for (std::int64_t j = 0; j < padded_keys; j += kKeyTile) {
          at::Tensor out = padded.select(0, head).narrow(0, row, kRowTile).narrow(1, j, kKeyTile);
          at::mm_out(out, query_tile, key.narrow(0, j, kKeyTile).t());
        }
      }
    }
    at::Tensor raw = padded.narrow(1, 0, tile.rows).narrow(2, 0, tile.keys);
    hide(raw, tile);
    return raw;
  }

  void hide(at::Tensor& raw, const Tile& tile) const {
    const auto options = raw.options().dtype(at::kLong);
    const at::Tensor position = at::arange(tile.rows, options).add_(first_position_ + tile.row).unsqueeze(1);
    const at::Tensor key = at::arange(tile.keys, options).unsqueeze(0);
    constexpr double kHidden = -std::numeric_limits<double>::infinity();
    if (call_.is_causal) raw.masked_fill_(key > position, kHidden);
    if (call_.sliding_window > 0) raw.masked_fill_(key <= position - call_.sliding_window, kHidden);
  }

  static void check_softmax(const EagerSoftmax& softmax, const at::Tensor& raw) {
    MODELOPT_CHECK(softmax.probabilities.sizes() == raw.sizes(), InvalidArgument, "softmax returned probabilities ",
                   softmax.probabilities.sizes(), ", expected ", raw.sizes());
    MODELOPT_CHECK(softmax.attended.sizes() == raw.sizes() && softmax.attended.scalar_type() == at::kBool,
                   InvalidArgument, "softmax returned attended ", softmax.attended.scalar_type(), " ",
                   softmax.attended.sizes(), ", expected Bool ", raw.sizes());
  }

  // [heads, rows, D]
  at::Tensor weighted_values(const at::Tensor& probabilities, const Tile& tile) const {
    return at::matmul(probabilities, values_.select(0, tile.first_head / group_).narrow(0, 0, tile.keys));
  }

  // int64 [heads, 4], columns as in the operator
  at::Tensor count(const Tile& tile, const at::Tensor& visible, const at::Tensor& attended) const {
    at::Tensor counts = at::zeros({tile.heads, 4}, call_.q.options().dtype(at::kLong));
    const at::Tensor seen = blocks(tile, visible), used = blocks(tile, attended);
    counts.select(1, 0).copy_(seen.sum({1, 2}));
    counts.select(1, 1).copy_((seen & ~used).sum({1, 2}));
    counts.select(1, 2).copy_(visible.sum({1, 2}));
    counts.select(1, 3).copy_(attended.sum({1, 2}));
    return counts;
  }

  // bool [heads, query blocks, key blocks]: does the block hold a set pair?
  at::Tensor blocks(const Tile& tile, const at::Tensor& pairs) const {
    const std::int64_t br = plan_.skip_softmax_br, bc = plan_.skip_softmax_bc;
    const std::int64_t above = modulo(first_position_ + tile.row, br);  // rows of the first block that are not here
    const std::int64_t below = round_up(above + tile.rows, br) - above - tile.rows;
    const std::int64_t right = round_up(tile.keys, bc) - tile.keys;
    const at::Tensor padded = at::constant_pad_nd(pairs, {0, right, above, below});
    return padded.view({tile.heads, padded.size(1) / br, br, padded.size(2) / bc, bc}).any(4).any(2);
  }

  const AttentionPlan& plan_;
  const AttentionCall& call_;
  Sequence sequence_;
  at::ScalarType accumulate_;
  std::int64_t group_;           // query heads per key head
  std::int64_t first_position_;  // absolute position of query row 0
  at::Tensor keys_;              // [Hkv, padded Lk, D]
  at::Tensor values_;            // [Hkv, Lk, D]
};

}  // namespace

AttentionOutput eager_attention(const AttentionPlan& plan, const AttentionCall& call) {
  check_tensors(call);
  const std::vector<Sequence> sequences = sequences_of(call);
  const std::int64_t heads = call.q.size(1);
  AttentionOutput result;
  result.output = at::zeros(call.q.sizes(), call.q.options());
  if (plan.collect_stats) {
    result.stats =
        at::zeros({static_cast<std::int64_t>(sequences.size()), heads, 4}, call.q.options().dtype(at::kLong));
  }
  for (std::size_t b = 0; b < sequences.size(); ++b) {
    const Sequence& sequence = sequences[b];
    if (sequence.q_len == 0) continue;
    EagerSequence(plan, call, sequence)
        .run(result.output.narrow(0, sequence.q_start, sequence.q_len),
             plan.collect_stats ? result.stats.select(0, static_cast<std::int64_t>(b)) : at::Tensor());
  }
  return result;
}

}  // namespace modelopt::attention
