#include <modelopt/attention/attention_interface.h>

#include <ATen/ops/equal.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <memory>
#include <string>

#include <modelopt/error.h>
#include <modelopt/kernels/attention.h>

#include "modelopt/attention/packed_call.h"

using namespace modelopt;
using namespace modelopt::attention;
using Catch::Matchers::ContainsSubstring;

namespace {

// Edits the plan with a function and counts how many scopes are alive.
class TestMethod final : public ActiveMethod {
 public:
  using Edit = std::function<void(AttentionPlan&, const AttentionCall&)>;
  TestMethod(Edit edit, int* alive) : edit_(std::move(edit)), alive_(alive) {}
  std::string name() const override { return "test"; }
  std::string parameters_json() const override { return "{}"; }
  std::unique_ptr<ActivationScope> activate(AttentionPlan& plan, const AttentionCall& call) const override {
    edit_(plan, call);
    return std::make_unique<Scope>(alive_);
  }

 private:
  struct Scope final : ActivationScope {
    explicit Scope(int* count) : alive(count) { ++*alive; }
    ~Scope() override { --*alive; }
    int* alive;
  };
  Edit edit_;
  int* alive_;
};

AttentionSlot slot_with(TestMethod::Edit edit, int* alive) {
  AttentionSlot slot;
  slot.method = std::make_shared<TestMethod>(std::move(edit), alive);
  return slot;
}

kernels::AttentionArgs args_of(const AttentionCall& call) {
  kernels::AttentionArgs args;
  args.q = call.q;
  args.k = call.k;
  args.v = call.v;
  args.b_start_loc = call.layout.b_start_loc;
  args.b_seq_len = call.layout.b_seq_len;
  args.max_input_len = call.layout.max_input_len;
  args.softmax_scale = call.softmax_scale;
  args.b_start_loc_k = call.layout.b_start_loc_k;
  args.b_seq_len_k = call.layout.b_seq_len_k;
  args.max_input_len_k = call.layout.max_input_len_k;
  args.phase = "prefill";
  return args;
}

}  // namespace

TEST_CASE("An empty slot is dense attention on the operator, without statistics") {
  const AttentionCall call = random_call({.queries = {5, 9}, .keys = {7, 9}});
  const AttentionOutput output = attend({}, call);
  CHECK(at::equal(output.output, kernels::attention(args_of(call)).output));
  CHECK_FALSE(output.stats.defined());
}

TEST_CASE("A slot that asks for statistics gets the operator's") {
  const AttentionCall call = random_call({.queries = {5, 9}, .keys = {7, 9}});
  AttentionSlot slot;
  slot.collect_stats = true;
  const at::Tensor stats = attend(slot, call).stats;
  REQUIRE(stats.sizes() == at::IntArrayRef{2, 4, 4});
  const std::int64_t pairs = 3 + 4 + 5 + 6 + 7;  // rows at positions 2 .. 6
  CHECK(stats[0][0][2].item<std::int64_t>() == pairs);
  CHECK(stats[0][0][3].item<std::int64_t>() == pairs);
  CHECK(stats[1][3][2].item<std::int64_t>() == 45);
}

TEST_CASE("What a method writes into the plan reaches the operator, and its scope ends with the call") {
  AttentionCall call = random_call({.queries = {24}, .keys = {24}});
  call.sliding_window = 20;
  int alive = 0;
  const auto edit = [&](AttentionPlan& plan, const AttentionCall& seen) {
    CHECK(alive == 0);
    CHECK(seen.phase == Phase::kPrefill);
    plan.sparsity_n = 3;
    plan.sparsity_m = 8;
    plan.num_sink_tokens = 2;
    plan.dense_window_size = 5;
  };
  const AttentionOutput output = attend(slot_with(edit, &alive), call);
  CHECK(alive == 0);

  kernels::AttentionArgs args = args_of(call);
  args.sliding_window = 20;
  args.sparsity_n = 3;
  args.sparsity_m = 8;
  args.num_sink_tokens = 2;
  args.dense_window_size = 5;
  CHECK(at::equal(output.output, kernels::attention(args).output));
  CHECK_FALSE(at::equal(output.output, attend({}, call).output));
}

TEST_CASE("The scope ends when the operator throws") {
  AttentionCall call = random_call({.queries = {4}, .keys = {4}});
  int alive = 0;
  const AttentionSlot slot = slot_with(
      [](AttentionPlan& plan, const AttentionCall&) {
        plan.sparsity_m = 5;
        plan.sparsity_n = 2;
      },
      &alive);
  CHECK_THROWS_AS(attend(slot, call), InvalidArgument);
  CHECK(alive == 0);
}

TEST_CASE("The phase is said to the operator: decode leaves N:M off, prefill sparsifies a single row") {
  AttentionCall call = random_call({.queries = {1}, .keys = {40}});
  int alive = 0;
  const AttentionSlot slot = slot_with(
      [](AttentionPlan& plan, const AttentionCall&) {
        plan.sparsity_n = 1;
        plan.dense_window_size = 0;
      },
      &alive);
  const at::Tensor dense = attend({}, call).output;
  CHECK_FALSE(at::equal(attend(slot, call).output, dense));
  call.phase = Phase::kDecode;
  CHECK(at::equal(attend(slot, call).output, dense));
}

TEST_CASE("The slot's kernel is the operator's backend") {
  AttentionSlot slot;
  slot.kernel = "abacus";
  CHECK_THROWS_WITH(attend(slot, random_call({.queries = {4}, .keys = {4}})), ContainsSubstring("abacus"));
}
