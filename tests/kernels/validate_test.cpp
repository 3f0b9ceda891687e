// Every check at the operator's door: the exact message, which names the argument, its value and what was expected.
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <catch2/catch_test_macros.hpp>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "kernels/attention_cases.h"

using namespace modelopt;
using namespace modelopt::kernels;

namespace {

AttentionArgs valid_args() {
  return testing::make_args({.lengths = {{3, 5}, {4, 6}}, .heads = 4, .kv_heads = 2, .head_dim = 8});
}

at::Tensor ints(std::initializer_list<int> values) { return at::tensor(values, at::kInt); }

std::string message_of(const AttentionArgs& args) {
  try {
    (void)attention(args);
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "no InvalidArgument was thrown";
}

struct BadCall {
  std::function<void(AttentionArgs&)> edit;
  std::string message;
};

void check_messages(const std::vector<BadCall>& calls) {
  for (const BadCall& call : calls) {
    AttentionArgs args = valid_args();
    call.edit(args);
    CHECK(message_of(args) == call.message);
  }
}

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();

}  // namespace

TEST_CASE("validation: the untouched call is valid", "[validate]") { CHECK_NOTHROW(attention(valid_args())); }

TEST_CASE("validation: tensors", "[validate]") {
  check_messages({
      {[](auto& a) { a.q = at::Tensor(); }, "q is an undefined tensor, expected a defined one"},
      {[](auto& a) { a.b_seq_len = at::Tensor(); }, "b_seq_len is an undefined tensor, expected a defined one"},
      {[](auto& a) { a.b_seq_len_k = at::Tensor(); },
       "b_seq_len_k is an undefined tensor, expected a defined one or nullopt"},
      {[](auto& a) {
         a.q = at::randn({7, 4});
       },
       "q has shape [7, 4], expected [total_q, num_heads, head_dim]"},
      {[](auto& a) {
         a.k = at::randn({1, 11, 2, 8});
       },
       "k has shape [1, 11, 2, 8], expected [total_kv, num_kv_heads, head_dim]"},
      {[](auto& a) { a.q = a.q.to(at::kLong); }, "q has dtype Long, expected Float, Half, BFloat16 or Double"},
      {[](auto& a) { a.k = a.k.to(at::kHalf); }, "k has dtype Half, expected q's dtype Float"},
      {[](auto& a) { a.v = a.v.to(at::kDouble); }, "v has dtype Double, expected q's dtype Float"},
      {[](auto& a) {
         a.q = at::randn({7, 4, 257});
       },
       "q has head_dim 257, expected 1 to 256"},
      {[](auto& a) {
         a.q = at::randn({7, 4, 0});
       },
       "q has head_dim 0, expected 1 to 256"},
      {[](auto& a) {
         a.k = at::randn({11, 2, 16});
       },
       "k has 16 elements per head, expected 8 as q"},
      {[](auto& a) {
         a.v = at::randn({11, 2, 4});
       },
       "v has 4 elements per head, expected 8 as q"},
      {[](auto& a) {
         a.v = at::randn({11, 1, 8});
       },
       "v has 1 heads, expected 2 as k"},
      {[](auto& a) {
         a.v = at::randn({10, 2, 8});
       },
       "v has 10 rows, expected 11 as k"},
      {[](auto& a) {
         a.k = a.v = at::randn({11, 0, 8});
       },
       "k has 0 heads, expected at least 1"},
      {[](auto& a) {
         a.k = a.v = at::randn({11, 3, 8});
       },
       "q has 4 heads, expected a positive multiple of k's 3"},
      {[](auto& a) {
         a.q = at::randn({7, 0, 8});
       },
       "q has 0 heads, expected a positive multiple of k's 2"},
      {[](auto& a) {
         a.q = at::randn({7, 8, 4}).transpose(1, 2);
       },
       "q has last stride 4, expected 1 (other strides are free)"},
      {[](auto& a) {
         a.v = at::randn({11, 2, 1}).expand({11, 2, 8});
       },
       "v has last stride 0, expected 1 (other strides are free)"},
  });
}

TEST_CASE("validation: metadata", "[validate]") {
  check_messages({
      {[](auto& a) { a.b_start_loc = a.b_start_loc.to(at::kLong); }, "b_start_loc has dtype Long, expected Int"},
      {[](auto& a) { a.b_seq_len = a.b_seq_len.unsqueeze(0); }, "b_seq_len has shape [1, 2], expected [batch]"},
      {[](auto& a) { a.b_seq_len = ints({3}); }, "b_seq_len has 1 elements, expected 2 as b_start_loc"},
      {[](auto& a) {
         a.b_start_loc_k = ints({0, 5, 6});
       },
       "b_start_loc_k has 3 elements, expected 2 as b_start_loc"},
      {[](auto& a) { a.b_seq_len_k = at::zeros({2}); }, "b_seq_len_k has dtype Float, expected Int"},
      {[](auto& a) { a.skip_softmax_lambda = at::zeros({2}, at::kDouble); },
       "skip_softmax_lambda has dtype Double, expected Float"},
      {[](auto& a) { a.skip_softmax_lambda = at::zeros({3}); },
       "skip_softmax_lambda has 3 elements, expected 2 as b_start_loc"},
      {[](auto& a) {
         a.b_start_loc = ints({0, -1});
       },
       "b_start_loc[1] is -1, expected at least 0"},
      {[](auto& a) {
         a.b_seq_len = ints({-3, 4});
       },
       "b_seq_len[0] is -3, expected at least 0"},
      {[](auto& a) {
         a.b_start_loc = ints({0, 4});
       },
       "b_start_loc[1] + b_seq_len[1] is 8, expected at most 7, the rows of q"},
      {[](auto& a) {
         a.b_start_loc = ints({0, std::numeric_limits<int>::max()});
       },
       "b_start_loc[1] + b_seq_len[1] is 2147483651, expected at most 7, the rows of q"},
      {[](auto& a) {
         a.b_seq_len_k = ints({5, 7});
       },
       "b_start_loc_k[1] + b_seq_len_k[1] is 12, expected at most 11, the rows of k"},
      {[](auto& a) { a.max_input_len = 3; }, "b_seq_len[1] is 4, expected at most max_input_len = 3"},
      {[](auto& a) { a.max_input_len = -1; }, "max_input_len is -1, expected at least 0"},
      {[](auto& a) { a.max_input_len_k = 5; }, "b_seq_len_k[1] is 6, expected at most max_input_len_k = 5"},
      {[](auto& a) { a.max_input_len_k = -4; }, "max_input_len_k is -4, expected at least 0"},
      {[](auto& a) {
         a.b_start_loc = ints({0, 2});
       },
       "b_start_loc[1] is 2, expected no query row that also belongs to sequence 0 (rows 0 to 2)"},
      {[](auto& a) {
         a.b_start_loc = ints({3, 0});
       },
       "b_start_loc[0] is 3, expected no query row that also belongs to sequence 1 (rows 0 to 3)"},
  });
}

TEST_CASE("validation: keys take the queries' rows by default, and are checked as keys", "[validate]") {
  AttentionArgs args = testing::make_args({.lengths = {{4, 4}, {3, 3}}, .heads = 2, .kv_heads = 1, .head_dim = 8});
  CHECK_NOTHROW(attention(args));
  args.k = args.v = at::randn({6, 1, 8});
  CHECK(message_of(args) == "b_start_loc[1] + b_seq_len[1] (for the keys) is 7, expected at most 6, the rows of k");
}

TEST_CASE("validation: numbers and names", "[validate]") {
  check_messages({
      {[](auto& a) { a.softmax_scale = 0.0; },
       "softmax_scale is 0, expected a finite number > 0 (in the type of the scores)"},
      {[](auto& a) { a.softmax_scale = -1.0; },
       "softmax_scale is -1, expected a finite number > 0 (in the type of the scores)"},
      {[](auto& a) { a.softmax_scale = kInf; },
       "softmax_scale is inf, expected a finite number > 0 (in the type of the scores)"},
      {[](auto& a) { a.softmax_scale = std::nan(""); },
       "softmax_scale is nan, expected a finite number > 0 (in the type of the scores)"},
      {[](auto& a) { a.softmax_scale = 1e-60; },
       "softmax_scale is 1e-60, expected a finite number > 0 (in the type of the scores)"},
      {[](auto& a) { a.sparsity_m = 6; }, "sparsity_m is 6, expected 4 or 8"},
      {[](auto& a) { a.sparsity_m = 0; }, "sparsity_m is 0, expected 4 or 8"},
      {[](auto& a) { a.sparsity_n = 4; }, "sparsity_n is 4, expected 0 <= sparsity_n < sparsity_m = 4"},
      {[](auto& a) { a.sparsity_n = -1; }, "sparsity_n is -1, expected 0 <= sparsity_n < sparsity_m = 4"},
      {[](auto& a) { a.num_sink_tokens = -2; }, "num_sink_tokens is -2, expected at least 0"},
      {[](auto& a) { a.dense_window_size = -64; }, "dense_window_size is -64, expected at least 0"},
      {[](auto& a) { a.sliding_window = -kHuge; }, "sliding_window is -9223372036854775807, expected at least 0"},
      {[](auto& a) { a.skip_softmax_threshold = 1.0; },
       "skip_softmax_threshold is 1, expected 0 <= lambda < 1 (in fp32)"},
      {[](auto& a) { a.skip_softmax_threshold = 0.999999999999; },
       "skip_softmax_threshold is 1, expected 0 <= lambda < 1 (in fp32)"},
      {[](auto& a) { a.skip_softmax_threshold = -0.1; },
       "skip_softmax_threshold is -0.1, expected 0 <= lambda < 1 (in fp32)"},
      {[](auto& a) { a.skip_softmax_threshold = std::nan(""); },
       "skip_softmax_threshold is nan, expected 0 <= lambda < 1 (in fp32)"},
      {[](auto& a) { a.skip_softmax_lambda = at::full({2}, 1.5); },
       "skip_softmax_lambda[0] is 1.5, expected 0 <= lambda < 1 (in fp32)"},
      {[](auto& a) {
         a.skip_softmax_lambda = at::tensor({0.5f, std::nanf("")});
       },
       "skip_softmax_lambda[1] is nan, expected 0 <= lambda < 1 (in fp32)"},
      {[](auto& a) {
         a.skip_softmax_threshold = 0.25;
         a.skip_softmax_lambda = at::zeros({2});
       },
       "skip_softmax_threshold is 0.25 and skip_softmax_lambda is given, expected at most one of the two"},
      {[](auto& a) { a.skip_softmax_br = 0; }, "skip_softmax_br is 0, expected at least 1"},
      {[](auto& a) { a.skip_softmax_bc = 12; }, "skip_softmax_bc is 12, expected a positive multiple of 8"},
      {[](auto& a) { a.skip_softmax_bc = 0; }, "skip_softmax_bc is 0, expected a positive multiple of 8"},
      {[](auto& a) { a.skip_softmax_bc = -8; }, "skip_softmax_bc is -8, expected a positive multiple of 8"},
      {[](auto& a) { a.phase = "Prefill"; }, "phase is \"Prefill\", expected auto, prefill or decode"},
      {[](auto& a) { a.backend = "triton"; },
       "backend is \"triton\", expected one of auto, sm90, sm80, cpu, reference"},
  });
}

TEST_CASE("validation: huge but valid numbers change nothing that smaller ones would not", "[validate]") {
  AttentionArgs args = valid_args();
  args.sparsity_n = 2;
  for (const std::string& backend : testing::cpu_backends()) {
    args = testing::on_backend(args, backend);
    AttentionArgs large = args, huge = args;
    large.max_input_len = large.num_sink_tokens = large.dense_window_size = large.sliding_window = 1000;
    large.max_input_len_k = 1000;
    large.skip_softmax_threshold = huge.skip_softmax_threshold = 0.5;
    large.skip_softmax_br = large.skip_softmax_bc = 1000;
    huge.max_input_len = huge.num_sink_tokens = huge.dense_window_size = huge.sliding_window = kHuge;
    huge.max_input_len_k = kHuge;
    huge.skip_softmax_br = kHuge;
    huge.skip_softmax_bc = kHuge - kHuge % 8;
    const auto a = attention_with_mask(large), b = attention_with_mask(huge);
    CHECK(testing::bitwise_difference(b.result.output, a.result.output) == "");
    CHECK(testing::bitwise_difference(b.mask, a.mask) == "");
  }
}

TEST_CASE("validation: strides are free and storage may overlap", "[validate]") {
  for (const std::string& backend : testing::cpu_backends()) {
    AttentionArgs args = testing::on_backend(valid_args(), backend);
    args.k = at::randn({1, 1, 8}).expand({11, 2, 8});
    args.v = at::randn({12, 8}).unfold(0, 2, 1).transpose(1, 2);  // [11, 2, 8]: rows that overlap by one head
    AttentionArgs copied = args;
    copied.k = args.k.contiguous();
    copied.v = args.v.contiguous();
    CHECK(testing::bitwise_difference(attention(args).output, attention(copied).output) == "");
  }
}
