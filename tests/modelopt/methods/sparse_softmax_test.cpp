#include <modelopt/methods/sparse_softmax.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <numeric>
#include <vector>

#include <modelopt/attention/attention_interface.h>

using namespace modelopt;
using namespace modelopt::methods;
using attention::AttentionCall;
using attention::AttentionPlan;
using attention::Phase;
using config::MethodBackend;
using config::SparseSoftmaxConfig;

namespace {

constexpr std::int64_t kHeadDim = 64;
const attention::AttentionModuleTraits kModule{
    .class_name = "LlamaAttention", .num_heads = 4, .num_key_value_heads = 2, .head_dim = kHeadDim};

std::shared_ptr<const attention::ActiveMethod> active(const SparseSoftmaxConfig& parameters) {
  return SparseSoftmax().bind(parameters, kModule).active;
}

AttentionCall phase_only(Phase phase) {
  AttentionCall call;
  call.phase = phase;
  return call;
}

struct Lengths {
  std::vector<int> queries, keys;
};

at::Tensor starts(const std::vector<int>& lengths) {
  std::vector<int> result(lengths.size(), 0);
  std::partial_sum(lengths.begin(), lengths.end() - 1, result.begin() + 1);
  return at::tensor(result, at::kInt);
}

// Scores are small integers, exact in every order of summation, with many ties; row j of each sequence's V is the unit
// vector e_j, so that an output element is the weight of a key.
AttentionCall exact_call(const Lengths& lengths, std::int64_t sliding_window) {
  const std::int64_t total_q = std::accumulate(lengths.queries.begin(), lengths.queries.end(), 0);
  const std::int64_t total_k = std::accumulate(lengths.keys.begin(), lengths.keys.end(), 0);
  AttentionCall call;
  call.q = at::randint(-1, 2, {total_q, kModule.num_heads, kHeadDim}, at::kFloat);
  call.k = at::randint(-1, 2, {total_k, kModule.num_key_value_heads, kHeadDim}, at::kFloat);
  call.q.narrow(2, 8, kHeadDim - 8).zero_();  // scores in [-8, 8]
  call.v = at::zeros_like(call.k);
  std::int64_t row = 0;
  for (const int length : lengths.keys) {
    call.v.narrow(0, row, length).copy_(at::eye(length, kHeadDim).unsqueeze(1));
    row += length;
  }
  call.layout.b_start_loc = starts(lengths.queries);
  call.layout.b_seq_len = at::tensor(lengths.queries, at::kInt);
  call.layout.max_input_len = *std::max_element(lengths.queries.begin(), lengths.queries.end());
  call.layout.b_start_loc_k = starts(lengths.keys);
  call.layout.b_seq_len_k = at::tensor(lengths.keys, at::kInt);
  call.layout.max_input_len_k = *std::max_element(lengths.keys.begin(), lengths.keys.end());
  call.softmax_scale = 0.125;
  call.sliding_window = sliding_window;
  return call;
}

attention::AttentionOutput attend_with(SparseSoftmaxConfig parameters, MethodBackend backend,
                                       const AttentionCall& call) {
  parameters.backend = backend;
  attention::AttentionSlot slot;
  slot.method = active(parameters);
  slot.collect_stats = true;
  return attention::attend(slot, call);
}

std::string message_of(const SparseSoftmaxConfig& parameters) {
  try {
    (void)active(parameters);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("fused: the operator's parameters are set within the scope, in prefill") {
  const auto method = active({.sparsity_n = 3, .sparsity_m = 8, .num_sink_tokens = 5, .dense_window_size = 7});
  AttentionPlan plan;
  {
    const auto scope = method->activate(plan, phase_only(Phase::kPrefill));
    REQUIRE(scope != nullptr);
    CHECK(plan.sparsity_n == 3);
    CHECK(plan.sparsity_m == 8);
    CHECK(plan.num_sink_tokens == 5);
    CHECK(plan.dense_window_size == 7);
    CHECK_FALSE(plan.softmax);
  }
  CHECK(plan.sparsity_n == 0);
  CHECK(plan.sparsity_m == 4);
  CHECK(plan.num_sink_tokens == 0);
  CHECK(plan.dense_window_size == 64);
}

TEST_CASE("eager: the softmax is replaced within the scope, in prefill") {
  const auto method = active({.backend = MethodBackend::kEager});
  AttentionPlan plan;
  {
    const auto scope = method->activate(plan, phase_only(Phase::kPrefill));
    CHECK(plan.softmax);
    CHECK(plan.sparsity_n == 0);
  }
  CHECK_FALSE(plan.softmax);
}

TEST_CASE("decode, and N = 0, leave the plan as it is") {
  for (const MethodBackend backend : {MethodBackend::kFused, MethodBackend::kEager}) {
    AttentionPlan plan;
    CHECK(active({.backend = backend})->activate(plan, phase_only(Phase::kDecode)) == nullptr);
    CHECK(active({.sparsity_n = 0, .backend = backend})->activate(plan, phase_only(Phase::kPrefill)) == nullptr);
    CHECK(plan.sparsity_n == 0);
    CHECK_FALSE(plan.softmax);
  }
}

TEST_CASE("a bound method names itself, its parameters and what it asks of the operator") {
  const BoundMethod fused = SparseSoftmax().bind(SparseSoftmaxConfig{}, kModule);
  CHECK(fused.active->name() == "sparse_softmax");
  CHECK(fused.active->parameters_json() ==
        R"({"sparsity_n":2,"sparsity_m":4,"num_sink_tokens":0,"dense_window_size":64,"backend":"fused"})");
  REQUIRE(fused.operator_traits.has_value());
  CHECK(fused.operator_traits->sparse_nm);
  CHECK(fused.operator_traits->head_dim == kHeadDim);
  CHECK_FALSE(
      SparseSoftmax().bind(SparseSoftmaxConfig{.backend = MethodBackend::kEager}, kModule).operator_traits.has_value());
  CHECK_FALSE(SparseSoftmax().bind(SparseSoftmaxConfig{.sparsity_n = 0}, kModule).operator_traits->sparse_nm);
}

TEST_CASE("parameters made in C++ are validated too") {
  CHECK(message_of({.sparsity_n = 4}) ==
        "sparse_softmax: sparsity_n: 4, expected an integer from 0 to 3 (less than sparsity_m = 4)");
  CHECK(message_of({.sparsity_m = 5, .dense_window_size = -1}) ==
        "sparse_softmax: sparsity_m: 5, expected 4 or 8\n"
        "sparse_softmax: dense_window_size: -1, expected an integer from 0 to 2147483647");
}

TEST_CASE("eager and fused attend to the same keys where scores are exact, and give the same output within rounding") {
  const c10::NoGradGuard no_grad;
  const std::vector<Lengths> batches = {
      {{64, 1, 37}, {64, 1, 37}},  // whole prompts
      {{16, 5, 1}, {64, 45, 33}},  // chunks, the last of one token
  };
  for (const Lengths& lengths : batches) {
    for (const std::int64_t sliding_window : {0, 21}) {
      const AttentionCall call = exact_call(lengths, sliding_window);
      for (const auto& [n, m] : {std::pair{1, 4}, {2, 4}, {3, 4}, {1, 8}, {4, 8}, {7, 8}}) {
        for (const auto& [sinks, window] : {std::pair{0, 0}, {3, 0}, {0, 9}, {5, 17}}) {
          CAPTURE(lengths.queries, lengths.keys, sliding_window, n, m, sinks, window);
          const SparseSoftmaxConfig parameters{
              .sparsity_n = n, .sparsity_m = m, .num_sink_tokens = sinks, .dense_window_size = window};
          const auto fused = attend_with(parameters, MethodBackend::kFused, call);
          const auto eager = attend_with(parameters, MethodBackend::kEager, call);
          CHECK(at::equal(fused.output != 0, eager.output != 0));
          CHECK(at::equal(fused.stats, eager.stats));
          CHECK(at::allclose(fused.output, eager.output, 1e-5, 1e-6));
          CHECK((fused.stats.select(2, 3) <= fused.stats.select(2, 2)).all().item<bool>());
        }
      }
    }
  }
}

TEST_CASE("in decode both are the dense operator, bit for bit") {
  const c10::NoGradGuard no_grad;
  AttentionCall call = exact_call({{1, 1, 2}, {64, 30, 12}}, 0);
  call.phase = Phase::kDecode;
  const at::Tensor dense = attention::attend({}, call).output;
  for (const MethodBackend backend : {MethodBackend::kFused, MethodBackend::kEager})
    CHECK(at::equal(attend_with({.dense_window_size = 0}, backend, call).output, dense));
}
