#include "kernels/attention_cases.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bitwise_and.h>
#include <ATen/ops/bitwise_right_shift.h>
#include <ATen/ops/einsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace modelopt::kernels::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

at::Tensor random_tensor(std::mt19937_64& random, at::IntArrayRef sizes, Fill fill, at::ScalarType dtype) {
  at::Tensor tensor = at::empty(sizes, at::kDouble);
  double* values = tensor.mutable_data_ptr<double>();
  std::normal_distribution<double> normal;
  std::uniform_int_distribution<int> integer(-2, 2);
  for (std::int64_t i = 0; i < tensor.numel(); ++i)
    values[i] = fill == Fill::kNormal ? normal(random) : integer(random);
  return tensor.to(dtype);
}

/// The same values in storage whose every other element is NaN, `unused` ones after each head's row. Heads outermost or
/// rows outermost.
at::Tensor poisoned_copy(const at::Tensor& packed, bool heads_outermost, std::int64_t unused) {
  const std::int64_t rows = packed.size(0), heads = packed.size(1), dim = packed.size(2);
  at::Tensor storage = heads_outermost
                           ? at::full({heads, rows + 2, dim + unused}, kNaN, packed.options()).transpose(0, 1)
                           : at::full({rows + 2, heads + 1, dim + unused}, kNaN, packed.options());
  at::Tensor view = storage.narrow(0, 1, rows).narrow(1, 0, heads).narrow(2, 0, dim);
  view.copy_(packed);
  return view;
}

at::Tensor int_tensor(const std::vector<std::int64_t>& values) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(values.size())}, at::kInt);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<std::int32_t>());
  return tensor;
}

/// Start rows of sequences that lie one after the other, or in reverse order with `gap` rows of none around each.
struct Layout {
  std::vector<std::int64_t> start;
  std::int64_t total = 0;
};
Layout lay_out(const std::vector<std::int64_t>& lengths, bool reversed_with_gaps) {
  const std::int64_t gap = reversed_with_gaps ? 3 : 0;
  Layout layout{std::vector<std::int64_t>(lengths.size()), gap};
  for (std::size_t n = 0; n < lengths.size(); ++n) {
    const std::size_t b = reversed_with_gaps ? lengths.size() - 1 - n : n;
    layout.start[b] = layout.total;
    layout.total += lengths[b] + gap;
  }
  return layout;
}

/// Rows of no sequence become NaN.
void poison_unowned_rows(at::Tensor& tensor, const Layout& layout, const std::vector<std::int64_t>& lengths) {
  at::Tensor owned = at::zeros({tensor.size(0)}, at::kBool);
  for (std::size_t b = 0; b < lengths.size(); ++b) owned.narrow(0, layout.start[b], lengths[b]).fill_(true);
  tensor.masked_fill_(owned.logical_not().view({-1, 1, 1}), kNaN);
}

std::string coordinates(const at::Tensor& tensor, std::int64_t flat) {
  std::string text;
  for (std::int64_t d = tensor.dim() - 1; d >= 0; --d) {
    text = str(flat % tensor.size(d), text.empty() ? "" : ", ", text);
    flat /= tensor.size(d);
  }
  return "[" + text + "]";
}

}  // namespace

Threads::Threads(int count) : before_(at::get_num_threads()) { at::set_num_threads(count); }
Threads::~Threads() { at::set_num_threads(before_); }

std::vector<std::string> cpu_backends() {
  std::vector<std::string> names;
  for (const char* name : {"cpu", "reference"}) {
    try {
      names.push_back(select_attention_backend({.device = c10::DeviceType::CPU, .head_dim = 64}, name));
    } catch (const Unsupported&) {
      continue;  // not in this build, and its error says so
    }
  }
  return names;
}

std::ostream& operator<<(std::ostream& out, const CaseShape& shape) {
  out << "lengths";
  for (const Lengths& lengths : shape.lengths) out << " " << lengths.q << "/" << lengths.k;
  return out << ", heads " << shape.heads << "/" << shape.kv_heads << ", D " << shape.head_dim << ", " << shape.dtype
             << (shape.fill == Fill::kNormal ? ", normal" : ", integers")
             << (shape.storage == Storage::kPacked     ? ", packed"
                 : shape.storage == Storage::kPoisoned ? ", poisoned"
                                                       : ", poisoned and aligned")
             << ", seed " << shape.seed;
}

std::ostream& operator<<(std::ostream& out, const Setting& s) {
  return out << (s.is_causal ? "causal" : "not causal") << ", " << s.sparsity_n << ":" << s.sparsity_m << ", sinks "
             << s.num_sink_tokens << ", dense window " << s.dense_window_size << ", sliding window " << s.sliding_window
             << ", lambda " << s.lambda << ", br " << s.br << ", bc " << s.bc;
}

double softmax_scale_of(const AttentionArgs& args) {
  return args.softmax_scale.value_or(1.0 / std::sqrt(static_cast<double>(args.q.size(2))));
}

at::Tensor heads_of(const at::Tensor& tensor, std::int64_t start, std::int64_t len, std::int64_t heads) {
  const at::Tensor rows = tensor.narrow(0, start, len).transpose(0, 1).to(at::kDouble);
  return rows.repeat_interleave(heads / tensor.size(1), 0);
}

AttentionArgs make_args(const CaseShape& shape) {
  std::vector<std::int64_t> q_len, k_len;
  for (const Lengths& lengths : shape.lengths) {
    q_len.push_back(lengths.q);
    k_len.push_back(lengths.k);
  }
  const bool poisoned = shape.storage != Storage::kPacked;
  const bool aligned = shape.storage == Storage::kPoisonedAligned;
  const Layout q_layout = lay_out(q_len, poisoned), k_layout = lay_out(k_len, poisoned);
  std::mt19937_64 random(shape.seed);
  AttentionArgs args;
  args.q = random_tensor(random, {q_layout.total, shape.heads, shape.head_dim}, shape.fill, shape.dtype);
  args.k = random_tensor(random, {k_layout.total, shape.kv_heads, shape.head_dim}, shape.fill, shape.dtype);
  args.v = random_tensor(random, {k_layout.total, shape.kv_heads, shape.head_dim}, Fill::kNormal, shape.dtype);
  if (poisoned) {
    poison_unowned_rows(args.q, q_layout, q_len);
    poison_unowned_rows(args.k, k_layout, k_len);
    poison_unowned_rows(args.v, k_layout, k_len);
    args.q = poisoned_copy(args.q, /*heads_outermost=*/true, aligned ? 8 : 3);
    args.k = poisoned_copy(args.k, /*heads_outermost=*/true, aligned ? 16 : 3);
    args.v = poisoned_copy(args.v, /*heads_outermost=*/false, aligned ? 8 : 5);
  }
  const auto longest = [](const std::vector<std::int64_t>& lengths) {
    return lengths.empty() ? std::int64_t{0} : *std::max_element(lengths.begin(), lengths.end());
  };
  args.b_start_loc = int_tensor(q_layout.start);
  args.b_seq_len = int_tensor(q_len);
  args.max_input_len = longest(q_len);
  if (poisoned || q_len != k_len) {
    args.b_start_loc_k = int_tensor(k_layout.start);
    args.b_seq_len_k = int_tensor(k_len);
    if (!poisoned) args.max_input_len_k = longest(k_len);  // poisoned: the default bound, total_kv
  }
  return args;
}

std::vector<CaseShape> standard_shapes(at::ScalarType dtype, Fill fill) {
  using enum Storage;
  return {
      {{{5, 5}}, 1, 1, 1, dtype, fill, kPacked, 11},
      {{{0, 0}, {1, 1}, {7, 7}, {257, 257}, {2, 2}}, 4, 2, 16, dtype, fill, kPacked, 12},
      {{{3, 40}, {1, 33}, {64, 65}, {5, 0}, {0, 9}}, 6, 2, 24, dtype, fill, kPoisoned, 13},
      {{{9, 4}, {130, 130}}, 2, 2, 64, dtype, fill, kPoisoned, 14},
      {{{75, 75}}, 8, 1, 80, dtype, fill, kPacked, 15},
      {{{33, 70}, {1, 1}}, 2, 1, 256, dtype, fill, kPoisoned, 16},
      {{{70, 70}}, 2, 2, 7, dtype, fill, kPoisoned, 17},
      {{}, 2, 1, 8, dtype, fill, kPacked, 18},
  };
}

AttentionArgs with_setting(AttentionArgs args, const Setting& setting) {
  args.is_causal = setting.is_causal;
  args.sparsity_n = setting.sparsity_n;
  args.sparsity_m = setting.sparsity_m;
  args.num_sink_tokens = setting.num_sink_tokens;
  args.dense_window_size = setting.dense_window_size;
  args.sliding_window = setting.sliding_window;
  if (setting.lambda > 0.0) args.skip_softmax_threshold = setting.lambda;
  args.skip_softmax_br = setting.br;
  args.skip_softmax_bc = setting.bc;
  return args;
}

std::vector<Setting> standard_settings() {
  return {
      {.is_causal = true},
      {.is_causal = false},
      {.is_causal = true, .sliding_window = 17},
      {.is_causal = false, .sliding_window = 5},
      {.is_causal = true, .sparsity_n = 2, .sparsity_m = 4, .dense_window_size = 0},
      {.is_causal = true, .sparsity_n = 2, .sparsity_m = 4, .dense_window_size = 64},
      {.is_causal = false, .sparsity_n = 2, .sparsity_m = 4, .num_sink_tokens = 3, .dense_window_size = 9},
      {.is_causal = true, .sparsity_n = 1, .sparsity_m = 4, .num_sink_tokens = 5, .dense_window_size = 1},
      {.is_causal = true, .sparsity_n = 3, .sparsity_m = 4, .dense_window_size = 6, .sliding_window = 50},
      {.is_causal = true, .sparsity_n = 4, .sparsity_m = 8, .dense_window_size = 0},
      {.is_causal = false, .sparsity_n = 4, .sparsity_m = 8, .num_sink_tokens = 1, .dense_window_size = 33},
      {.is_causal = true,
       .sparsity_n = 1,
       .sparsity_m = 8,
       .num_sink_tokens = 2,
       .dense_window_size = 7,
       .sliding_window = 40},
      {.is_causal = true, .sparsity_n = 7, .sparsity_m = 8, .dense_window_size = 0},
  };
}

std::vector<Setting> skip_settings() {
  return {
      {.is_causal = true, .lambda = 0.5, .br = 16, .bc = 8},
      {.is_causal = false, .lambda = 0.9, .br = 1, .bc = 16},
      {.is_causal = true, .sliding_window = 30, .lambda = 0.7, .br = 5, .bc = 8},
      {.is_causal = true, .sparsity_n = 2, .sparsity_m = 4, .dense_window_size = 4, .lambda = 0.6, .br = 4, .bc = 8},
      {.is_causal = true,
       .sparsity_n = 4,
       .sparsity_m = 8,
       .num_sink_tokens = 2,
       .dense_window_size = 0,
       .lambda = 0.9,
       .br = 2,
       .bc = 24},
  };
}

AttentionArgs on_backend(AttentionArgs args, const std::string& backend) {
  args.backend = backend;
  return args;
}

std::vector<SequenceRows> sequences_of(const AttentionArgs& args) {
  const at::Tensor k_start = args.b_start_loc_k.value_or(args.b_start_loc);
  const at::Tensor k_len = args.b_seq_len_k.value_or(args.b_seq_len);
  const auto at = [](const at::Tensor& t, std::int64_t b) { return std::int64_t{t.const_data_ptr<std::int32_t>()[b]}; };
  std::vector<SequenceRows> sequences;
  for (std::int64_t b = 0; b < args.b_start_loc.size(0); ++b) {
    sequences.push_back({at(args.b_start_loc, b), at(args.b_seq_len, b), at(k_start, b), at(k_len, b)});
  }
  return sequences;
}

at::Tensor unpack_mask(const at::Tensor& mask_bytes, const AttentionArgs& args) {
  std::int64_t keys = 0;
  for (const SequenceRows& rows : sequences_of(args)) keys = std::max(keys, rows.k_len);
  const at::Tensor shifts = at::arange(8, mask_bytes.options());
  const at::Tensor bits = mask_bytes.unsqueeze(-1).bitwise_right_shift(shifts).bitwise_and(1).flatten(-2);
  return bits.narrow(-1, 0, keys).to(at::kBool);
}

at::Tensor raw_scores(const AttentionArgs& args, const SequenceRows& rows) {
  const at::Tensor q = heads_of(args.q, rows.q_start, rows.q_len, args.q.size(1));
  const at::Tensor k = heads_of(args.k, rows.k_start, rows.k_len, args.q.size(1));
  return at::einsum("hid,hjd->hij", {q, k});
}

Expected attend_under_mask(const AttentionArgs& args, const at::Tensor& attended) {
  const at::TensorOptions options = args.q.options().dtype(at::kDouble);
  Expected expected{at::zeros(args.q.sizes(), options),
                    at::full({args.q.size(0), args.q.size(1)}, -kInfinity, options)};
  for (const SequenceRows& rows : sequences_of(args)) {
    if (rows.q_len == 0 || rows.k_len == 0) continue;
    const at::Tensor mask = attended.narrow(0, rows.q_start, rows.q_len).narrow(2, 0, rows.k_len).transpose(0, 1);
    const at::Tensor empty_row = mask.any(-1).logical_not();
    // Rows that attend nothing get finite scores, so that no NaN enters the derivatives, and are zeroed afterwards.
    const at::Tensor s = raw_scores(args, rows).mul(softmax_scale_of(args)).masked_fill(mask.logical_not(), -kInfinity);
    const at::Tensor safe = s.masked_fill(empty_row.unsqueeze(-1), 0.0);
    const at::Tensor p = at::softmax(safe, -1).masked_fill(mask.logical_not(), 0.0);
    const at::Tensor v = heads_of(args.v, rows.k_start, rows.k_len, args.q.size(1));
    const at::Tensor output = at::einsum("hij,hjd->ihd", {p, v});
    const at::Tensor lse = at::logsumexp(safe, -1).masked_fill(empty_row, -kInfinity).transpose(0, 1);
    expected.output.narrow(0, rows.q_start, rows.q_len).copy_(output);
    expected.logsumexp.narrow(0, rows.q_start, rows.q_len).copy_(lse);
  }
  return expected;
}

std::string difference(const at::Tensor& actual, const at::Tensor& expected, const at::Tensor& tolerance) {
  if (actual.sizes() != expected.sizes())
    return modelopt::str("shape ", actual.sizes(), ", expected ", expected.sizes());
  const at::Tensor a = actual.detach().to(at::kDouble).contiguous(), e = expected.detach().to(at::kDouble).contiguous();
  const at::Tensor t = tolerance.to(at::kDouble).expand_as(e).contiguous();
  const double *got = a.const_data_ptr<double>(), *want = e.const_data_ptr<double>(),
               *bound = t.const_data_ptr<double>();
  std::int64_t worst = -1;
  double worst_excess = 0.0;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    const bool same = got[i] == want[i] || (std::isnan(got[i]) && std::isnan(want[i]));
    if (same) continue;
    const bool comparable = std::isfinite(got[i]) && std::isfinite(want[i]);
    const double excess = comparable ? std::abs(got[i] - want[i]) / bound[i] : kInfinity;
    if (excess > 1.0 && excess > worst_excess) {
      worst = i;
      worst_excess = excess;
    }
  }
  if (worst < 0) return "";
  return str(coordinates(a, worst), " is ", got[worst], ", expected ", want[worst], " within ", bound[worst]);
}

std::string bitwise_difference(const at::Tensor& actual, const at::Tensor& expected) {
  if (actual.scalar_type() != expected.scalar_type())
    return modelopt::str("dtype ", actual.scalar_type(), ", expected ", expected.scalar_type());
  return difference(actual, expected, at::zeros({}, at::kDouble));
}

void BlockCounts::add(const at::Tensor& stats) {
  visible += stats.select(2, 0).sum().item<std::int64_t>();
  skipped += stats.select(2, 1).sum().item<std::int64_t>();
}

}  // namespace modelopt::kernels::testing
