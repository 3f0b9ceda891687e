#include "kernels/validate.h"

#include <c10/core/SymBool.h>
#include <c10/core/SymInt.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "kernels/dispatch.h"
#include "kernels/output_shapes.h"

namespace modelopt::kernels {
namespace {

constexpr std::int64_t kMaxHeadDim = 256;

void check_dimensions(std::string_view name, const at::Tensor& tensor, std::int64_t dims, std::string_view expected) {
  MODELOPT_CHECK(tensor.dim() == dims, InvalidArgument, name, " has shape ", tensor.sym_sizes(), ", expected ",
                 expected);
}

void check_same_size(std::string_view name, const c10::SymInt& size, std::string_view what, const c10::SymInt& expected,
                     std::string_view other) {
  MODELOPT_CHECK(size.sym_eq(expected).expect_true(__FILE__, __LINE__), InvalidArgument, name, " has ", size, " ", what,
                 ", expected ", expected, " as ", other);
}

void check_device(std::string_view name, const at::Tensor& tensor, const at::Tensor& q) {
  MODELOPT_CHECK(tensor.device() == q.device(), InvalidArgument, name, " is on ", tensor.device(),
                 ", expected q's device ", q.device());
}

void check_head_tensor(std::string_view name, const at::Tensor& tensor) {
  // With one element per head the stride is never used.
  MODELOPT_CHECK(tensor.sym_stride(2) == 1 || tensor.sym_size(2) == 1, InvalidArgument, name, " has last stride ",
                 tensor.sym_stride(2), ", expected 1 (other strides are free)");
}

void check_dtype(at::ScalarType dtype) {
  MODELOPT_CHECK(dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kDouble,
                 InvalidArgument, "q has dtype ", dtype, ", expected Float, Half, BFloat16 or Double");
}

void check_head_dim(const c10::SymInt& head_dim) {
  MODELOPT_CHECK(head_dim >= 1 && head_dim <= kMaxHeadDim, InvalidArgument, "q has head_dim ", head_dim,
                 ", expected 1 to ", kMaxHeadDim);
}

void check_qkv(const AttentionArgs& args) {
  const auto& [q, k, v] = std::tie(args.q, args.k, args.v);
  check_dimensions("q", q, 3, "[total_q, num_heads, head_dim]");
  check_dimensions("k", k, 3, "[total_kv, num_kv_heads, head_dim]");
  check_dimensions("v", v, 3, "[total_kv, num_kv_heads, head_dim]");
  const at::ScalarType dtype = q.scalar_type();
  check_dtype(dtype);
  for (const auto& [name, tensor] : {std::pair{"k", &k}, std::pair{"v", &v}}) {
    MODELOPT_CHECK(tensor->scalar_type() == dtype, InvalidArgument, name, " has dtype ", tensor->scalar_type(),
                   ", expected q's dtype ", dtype);
    check_device(name, *tensor, q);
  }
  const c10::SymInt head_dim = q.sym_size(2);
  check_head_dim(head_dim);
  check_same_size("k", k.sym_size(2), "elements per head", head_dim, "q");
  check_same_size("v", v.sym_size(2), "elements per head", head_dim, "q");
  check_same_size("v", v.sym_size(1), "heads", k.sym_size(1), "k");
  check_same_size("v", v.sym_size(0), "rows", k.sym_size(0), "k");
  const c10::SymInt heads = q.sym_size(1);
  const c10::SymInt kv_heads = k.sym_size(1);
  MODELOPT_CHECK(kv_heads >= 1, InvalidArgument, "k has ", kv_heads, " heads, expected at least 1");
  MODELOPT_CHECK(heads >= 1 && heads % kv_heads == 0, InvalidArgument, "q has ", heads,
                 " heads, expected a positive multiple of k's ", kv_heads);
  check_head_tensor("q", q);
  check_head_tensor("k", k);
  check_head_tensor("v", v);
}

void check_per_sequence(std::string_view name, const at::Tensor& tensor, at::ScalarType dtype,
                        const AttentionArgs& args) {
  check_dimensions(name, tensor, 1, "[batch]");
  MODELOPT_CHECK(tensor.scalar_type() == dtype, InvalidArgument, name, " has dtype ", tensor.scalar_type(),
                 ", expected ", dtype);
  check_device(name, tensor, args.q);
  check_same_size(name, tensor.sym_size(0), "elements", args.b_start_loc.sym_size(0), "b_start_loc");
}

void check_metadata(const AttentionArgs& args) {
  check_per_sequence("b_start_loc", args.b_start_loc, at::kInt, args);
  check_per_sequence("b_seq_len", args.b_seq_len, at::kInt, args);
  if (args.b_start_loc_k) check_per_sequence("b_start_loc_k", *args.b_start_loc_k, at::kInt, args);
  if (args.b_seq_len_k) check_per_sequence("b_seq_len_k", *args.b_seq_len_k, at::kInt, args);
  if (args.skip_softmax_lambda) check_per_sequence("skip_softmax_lambda", *args.skip_softmax_lambda, at::kFloat, args);
}

void check_at_least(std::string_view name, std::int64_t value, std::int64_t least) {
  MODELOPT_CHECK(value >= least, InvalidArgument, name, " is ", value, ", expected at least ", least);
}

void check_lambda(std::string_view name, double lambda) {
  // As the decision sees it: rounded to fp32, 1 - 1e-9 is 1.
  const float rounded = static_cast<float>(lambda);
  MODELOPT_CHECK(rounded >= 0.0f && rounded < 1.0f && lambda >= 0.0, InvalidArgument, name, " is ", lambda,
                 ", expected 0 <= lambda < 1 (in fp32)");
}

void check_numbers(const AttentionArgs& args) {
  if (args.softmax_scale) {
    const double scale = *args.softmax_scale;
    const double used = args.q.scalar_type() == at::kDouble ? scale : static_cast<double>(static_cast<float>(scale));
    MODELOPT_CHECK(std::isfinite(used) && used > 0.0, InvalidArgument, "softmax_scale is ", scale,
                   ", expected a finite number > 0 (in the type of the scores)");
  }
  MODELOPT_CHECK(args.sparsity_m == 4 || args.sparsity_m == 8, InvalidArgument, "sparsity_m is ", args.sparsity_m,
                 ", expected 4 or 8");
  MODELOPT_CHECK(args.sparsity_n >= 0 && args.sparsity_n < args.sparsity_m, InvalidArgument, "sparsity_n is ",
                 args.sparsity_n, ", expected 0 <= sparsity_n < sparsity_m = ", args.sparsity_m);
  check_at_least("num_sink_tokens", args.num_sink_tokens, 0);
  check_at_least("dense_window_size", args.dense_window_size, 0);
  check_at_least("sliding_window", args.sliding_window, 0);
  if (args.skip_softmax_threshold) {
    MODELOPT_CHECK(!args.skip_softmax_lambda, InvalidArgument, "skip_softmax_threshold is ",
                   *args.skip_softmax_threshold, " and skip_softmax_lambda is given, expected at most one of the two");
    check_lambda("skip_softmax_threshold", *args.skip_softmax_threshold);
  }
  check_at_least("skip_softmax_br", args.skip_softmax_br, 1);
  MODELOPT_CHECK(args.skip_softmax_bc > 0 && args.skip_softmax_bc % 8 == 0, InvalidArgument, "skip_softmax_bc is ",
                 args.skip_softmax_bc, ", expected a positive multiple of 8");
}

void check_names(const AttentionArgs& args) {
  MODELOPT_CHECK(args.phase == "auto" || args.phase == "prefill" || args.phase == "decode", InvalidArgument,
                 "phase is \"", args.phase, "\", expected auto, prefill or decode");
  if (args.backend != "auto") validate_backend_name(args.backend);
}

/// First row and length of every sequence on one side (queries or keys), and what to call them in messages.
struct RowRanges {
  std::string_view start_name;
  std::string_view len_name;
  std::string_view note;  ///< said where the keys' ranges are the queries' by default
  at::Tensor start;
  at::Tensor len;
  std::int64_t max_len = 0;
  std::string_view max_len_name;
  std::int64_t total = 0;
  std::string_view tensor_name;
};

void check_range(const RowRanges& side, std::int64_t b, std::int64_t start, std::int64_t len) {
  const auto index = [b](std::string_view name) { return str(name, "[", b, "]"); };
  MODELOPT_CHECK(start >= 0, InvalidArgument, index(side.start_name), " is ", start, ", expected at least 0");
  MODELOPT_CHECK(len >= 0, InvalidArgument, index(side.len_name), " is ", len, ", expected at least 0");
  MODELOPT_CHECK(start + len <= side.total, InvalidArgument, index(side.start_name), " + ", index(side.len_name),
                 side.note, " is ", start + len, ", expected at most ", side.total, ", the rows of ", side.tensor_name);
  MODELOPT_CHECK(len <= side.max_len, InvalidArgument, index(side.len_name), side.note, " is ", len,
                 ", expected at most ", side.max_len_name, " = ", side.max_len);
}

/// Query rows are written, so no two sequences may share one. Keys may be shared.
void check_disjoint_queries(const std::vector<Sequence>& sequences) {
  std::vector<std::size_t> order;
  for (std::size_t b = 0; b < sequences.size(); ++b) {
    if (sequences[b].q_len > 0) order.push_back(b);
  }
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return sequences[a].q_start < sequences[b].q_start; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const Sequence& before = sequences[order[i - 1]];
    const Sequence& after = sequences[order[i]];
    MODELOPT_CHECK(before.q_start + before.q_len <= after.q_start, InvalidArgument, "b_start_loc[", order[i], "] is ",
                   after.q_start, ", expected no query row that also belongs to sequence ", order[i - 1], " (rows ",
                   before.q_start, " to ", before.q_start + before.q_len - 1, ")");
  }
}

RowRanges query_ranges(const AttentionArgs& args) {
  return {.start_name = "b_start_loc",
          .len_name = "b_seq_len",
          .note = "",
          .start = args.b_start_loc.contiguous(),
          .len = args.b_seq_len.contiguous(),
          .max_len = args.max_input_len,
          .max_len_name = "max_input_len",
          .total = args.q.size(0),
          .tensor_name = "q"};
}

RowRanges key_ranges(const AttentionArgs& args) {
  const bool default_bound = !args.max_input_len_k.has_value();
  const bool has_metadata = args.b_start_loc_k || args.b_seq_len_k;
  return {.start_name = args.b_start_loc_k ? "b_start_loc_k" : "b_start_loc",
          .len_name = args.b_seq_len_k ? "b_seq_len_k" : "b_seq_len",
          .note = args.b_start_loc_k && args.b_seq_len_k ? "" : " (for the keys)",
          .start = args.b_start_loc_k.value_or(args.b_start_loc).contiguous(),
          .len = args.b_seq_len_k.value_or(args.b_seq_len).contiguous(),
          .max_len = key_length_bound(args, args.max_input_len, args.max_input_len_k, args.k.size(0)),
          .max_len_name = !default_bound ? "max_input_len_k"
                          : has_metadata ? "the rows of k"
                                         : "max_input_len",
          .total = args.k.size(0),
          .tensor_name = "k"};
}

void check_bounds(const AttentionArgs& args) {
  check_at_least("max_input_len", args.max_input_len, 0);
  if (args.max_input_len_k) check_at_least("max_input_len_k", *args.max_input_len_k, 0);
}

bool is_prefill(const AttentionArgs& args, std::int64_t q_len) {
  return args.phase == "prefill" || (args.phase == "auto" && q_len != 1);
}

}  // namespace

void validate_defined(const AttentionArgs& args) {
  for (const auto& [name, tensor] :
       {std::pair{"q", &args.q}, std::pair{"k", &args.k}, std::pair{"v", &args.v},
        std::pair{"b_start_loc", &args.b_start_loc}, std::pair{"b_seq_len", &args.b_seq_len}}) {
    MODELOPT_CHECK(tensor->defined(), InvalidArgument, name, " is an undefined tensor, expected a defined one");
  }
  for (const auto& [name, tensor] :
       {std::pair{"b_start_loc_k", &args.b_start_loc_k}, std::pair{"b_seq_len_k", &args.b_seq_len_k},
        std::pair{"skip_softmax_lambda", &args.skip_softmax_lambda}}) {
    MODELOPT_CHECK(!*tensor || (*tensor)->defined(), InvalidArgument, name,
                   " is an undefined tensor, expected a defined one or nullopt");
  }
}

void validate_traits(const AttentionTraits& traits) {
  check_dtype(traits.dtype);
  check_head_dim(traits.head_dim);
}

void validate_trials(const std::vector<double>& trials) {
  MODELOPT_CHECK(!trials.empty(), InvalidArgument, "threshold_trials is empty, expected at least one threshold");
  for (std::size_t i = 0; i < trials.size(); ++i) check_lambda(str("threshold_trials[", i, "]"), trials[i]);
}

void validate_arguments(const AttentionArgs& args) {
  check_qkv(args);
  check_metadata(args);
  check_numbers(args);
  check_names(args);
}

std::vector<Sequence> read_sequences(const AttentionArgs& args) {
  check_bounds(args);
  const RowRanges queries = query_ranges(args);
  const RowRanges keys = key_ranges(args);
  const at::Tensor lambda = args.skip_softmax_lambda ? args.skip_softmax_lambda->contiguous() : at::Tensor();
  std::vector<Sequence> sequences(static_cast<std::size_t>(args.b_start_loc.size(0)));
  for (std::size_t b = 0; b < sequences.size(); ++b) {
    Sequence& sequence = sequences[b];
    sequence.q_start = queries.start.const_data_ptr<std::int32_t>()[b];
    sequence.q_len = queries.len.const_data_ptr<std::int32_t>()[b];
    sequence.k_start = keys.start.const_data_ptr<std::int32_t>()[b];
    sequence.k_len = keys.len.const_data_ptr<std::int32_t>()[b];
    check_range(queries, static_cast<std::int64_t>(b), sequence.q_start, sequence.q_len);
    check_range(keys, static_cast<std::int64_t>(b), sequence.k_start, sequence.k_len);
    sequence.sparse_nm = args.sparsity_n > 0 && is_prefill(args, sequence.q_len);
    if (lambda.defined()) {
      sequence.lambda = lambda.const_data_ptr<float>()[b];
      check_lambda(str("skip_softmax_lambda[", b, "]"), sequence.lambda);
    } else {
      sequence.lambda = args.skip_softmax_threshold.value_or(0.0);
    }
  }
  check_disjoint_queries(sequences);
  return sequences;
}

DeviceSequences device_sequences(const AttentionArgs& args) {
  check_bounds(args);
  const RowRanges queries = query_ranges(args);
  const RowRanges keys = key_ranges(args);
  return {.q_start = queries.start,
          .q_len = queries.len,
          .k_start = keys.start,
          .k_len = keys.len,
          .max_q_len = std::min(queries.max_len, queries.total),
          .max_k_len = std::min(keys.max_len, keys.total),
          .single_rows_are_decode = args.phase == "auto",
          .lambda = args.skip_softmax_lambda ? args.skip_softmax_lambda->contiguous() : at::Tensor()};
}

}  // namespace modelopt::kernels
