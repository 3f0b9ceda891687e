#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <limits>
#include <memory>
#include <string>

#include <modelopt/attention/attention_interface.h>
#include <modelopt/error.h>

#include "modelopt/attention/packed_call.h"

using namespace modelopt;
using namespace modelopt::attention;
using Catch::Matchers::ContainsSubstring;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

class EagerMethod final : public ActiveMethod {
 public:
  explicit EagerMethod(SoftmaxFunction softmax, std::int64_t br, std::int64_t bc)
      : softmax_(std::move(softmax)), br_(br), bc_(bc) {}
  std::string name() const override { return "eager"; }
  std::string parameters_json() const override { return "{}"; }
  std::unique_ptr<ActivationScope> activate(AttentionPlan& plan, const AttentionCall&) const override {
    plan.softmax = softmax_;
    plan.skip_softmax_br = br_;
    plan.skip_softmax_bc = bc_;
    return nullptr;
  }

 private:
  SoftmaxFunction softmax_;
  std::int64_t br_, bc_;
};

AttentionSlot slot_of(SoftmaxFunction softmax, std::int64_t br = 128, std::int64_t bc = 128) {
  AttentionSlot slot;
  slot.method = std::make_shared<EagerMethod>(std::move(softmax), br, bc);
  slot.collect_stats = true;
  return slot;
}

EagerSoftmax plain_softmax(const EagerScores& scores) {
  const at::Tensor visible = scores.raw != -kInfinity;
  return {at::softmax(scores.raw * scores.scale, -1).masked_fill(~visible, 0), visible};
}

// Attends to the keys with the even indices.
EagerSoftmax even_keys(const EagerScores& scores) {
  const at::Tensor even = at::arange(scores.raw.size(2), at::kLong).remainder(2) == 0;
  const at::Tensor attended = (scores.raw != -kInfinity) & even;
  return {at::softmax((scores.raw * scores.scale).masked_fill(~attended, -kInfinity), -1).masked_fill(~attended, 0),
          attended};
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

}  // namespace

TEST_CASE("A plain softmax gives what the operator gives") {
  AttentionCall call = random_call({.queries = {1, 70, 130, 300}, .keys = {1, 70, 700, 301}, .heads = 6});
  call.sliding_window = GENERATE(0, 1, 33);
  call.is_causal = GENERATE(true, false);
  AttentionSlot dense;
  dense.collect_stats = true;
  const AttentionOutput fused = attend(dense, call);
  const AttentionOutput eager = attend(slot_of(plain_softmax), call);
  CHECK(largest_difference(eager.output, fused.output) < 1e-5);
  CHECK(at::equal(eager.stats, fused.stats));
}

TEST_CASE("fp64 is computed in fp64, bf16 and fp16 in fp32 and rounded once") {
  const CallShape shape{.queries = {40}, .keys = {50}};
  const AttentionSlot eager = slot_of(plain_softmax);
  CHECK(largest_difference(attend(eager, random_call(shape, at::kDouble)).output,
                           attend({}, random_call(shape, at::kDouble)).output) < 1e-14);
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
    const AttentionCall call = random_call(shape, dtype);
    AttentionCall wide = call;
    wide.q = call.q.to(at::kFloat);
    wide.k = call.k.to(at::kFloat);
    wide.v = call.v.to(at::kFloat);
    CHECK(at::equal(attend(eager, call).output, attend(eager, wide).output.to(dtype)));
  }
}

TEST_CASE("Rows of a sequence have the bits that they have alone, in chunks and on any number of threads") {
  const CallShape shape{.queries = {200, 3, 90}, .keys = {200, 260, 90}, .heads = 4, .key_heads = 2, .head_dim = 40};
  const AttentionCall call = random_call(shape);
  at::Tensor raw;  // of the last sequence and the last key head
  const AttentionSlot recording = slot_of([&](const EagerScores& scores) {
    raw = scores.raw.clone();
    return plain_softmax(scores);
  });
  (void)attend(recording, call);
  const at::Tensor together = raw.narrow(1, 50, 40);

  AttentionCall chunk = random_call({.queries = {40}, .keys = {90}, .heads = 4, .key_heads = 2, .head_dim = 40});
  chunk.q = call.q.narrow(0, 253, 40);
  chunk.k = call.k.narrow(0, 460, 90);
  chunk.v = call.v.narrow(0, 460, 90);
  (void)attend(recording, chunk);
  CHECK(at::equal(raw, together));

  const int threads = at::get_num_threads();
  at::set_num_threads(threads == 1 ? 2 : 1);
  (void)attend(recording, chunk);
  at::set_num_threads(threads);
  CHECK(at::equal(raw, together));
}

TEST_CASE("The softmax sees positions and whole query blocks, and keys up to the last visible one") {
  const AttentionCall call = random_call({.queries = {300}, .keys = {310}, .heads = 2, .key_heads = 1});
  std::vector<std::int64_t> positions;
  const auto record = [&](const EagerScores& scores) {
    const std::int64_t rows = scores.raw.size(1), last = scores.first_position + rows - 1;
    positions.push_back(scores.first_position);
    CHECK(scores.raw.size(2) == last + 1);
    CHECK(scores.scale == 0.25);
    CHECK(scores.raw[0][0][scores.first_position].item<double>() != -kInfinity);
    if (rows > 1) CHECK(scores.raw[0][0][scores.first_position + 1].item<double>() == -kInfinity);
    CHECK(((last + 1) % 64 == 0 || last == 309));
    return plain_softmax(scores);
  };
  (void)attend(slot_of(record, /*br=*/64), call);
  CHECK(positions.front() == 10);
}

TEST_CASE("Statistics count pairs and blocks as the operator defines them") {
  // rows at positions 3 .. 8, keys 0 .. 8; query blocks of 4 rows, key blocks of 2 keys
  AttentionCall call = random_call({.queries = {6}, .keys = {9}, .heads = 1, .key_heads = 1});
  const AttentionOutput output = attend(slot_of(even_keys, /*br=*/4, /*bc=*/2), call);
  // query blocks {3}, {4..7}, {8} see 2, 4, 5 key blocks; every block holds an even key that a row sees
  CHECK(at::equal(output.stats[0][0], at::tensor({11, 0, 4 + 5 + 6 + 7 + 8 + 9, 2 + 3 + 3 + 4 + 4 + 5}, at::kLong)));

  const auto first_key_only = [](const EagerScores& scores) {
    const at::Tensor attended = (at::arange(scores.raw.size(2), at::kLong) == 0).expand_as(scores.raw);
    return EagerSoftmax{attended.to(scores.raw.scalar_type()), attended};
  };
  const AttentionOutput skipping = attend(slot_of(first_key_only, 4, 2), call);
  CHECK(at::equal(skipping.stats[0][0], at::tensor({11, 11 - 3, 39, 6}, at::kLong)));
  CHECK(at::equal(skipping.output.select(1, 0), call.v[0].expand({6, 16})));
}

TEST_CASE("A row that sees no key is 0; rows of no sequence are 0") {
  AttentionCall call = random_call({.queries = {5, 0, 2}, .keys = {3, 4, 0}});
  call.q = at::cat({call.q, call.q.narrow(0, 0, 1)});
  const at::Tensor output = attend(slot_of(plain_softmax), call).output;
  CHECK(at::equal(output.narrow(0, 0, 2), at::zeros_like(output.narrow(0, 0, 2))));  // positions -2 and -1
  CHECK(output.narrow(0, 2, 3).abs().min().item<double>() > 0);
  CHECK(at::equal(output.narrow(0, 5, 3), at::zeros_like(output.narrow(0, 5, 3))));
}

TEST_CASE("A NaN or +inf score makes its row NaN even where the softmax drops it, and no other row") {
  const float bad = GENERATE(std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity());
  AttentionCall call = random_call({.queries = {6}, .keys = {6}, .heads = 1, .key_heads = 1});
  call.q.abs_();
  call.k.select(0, 3).fill_(bad);  // an odd key, which even_keys drops
  const at::Tensor nan = attend(slot_of(even_keys), call).output.isnan().all(2).all(1);
  CHECK(at::equal(nan, at::arange(6, at::kLong) >= 3));
}

TEST_CASE("What cannot be computed is refused") {
  const AttentionSlot slot = slot_of(plain_softmax);
  const AttentionCall good = random_call({.queries = {4}, .keys = {4}});
  AttentionCall call = good;
  SECTION("heads") {
    call.q = good.q.narrow(1, 0, 3);
    CHECK_THROWS_WITH(attend(slot, call), "q has 3 heads, expected a multiple of the 2 heads of k");
  }
  SECTION("dtypes") {
    call.v = good.v.to(at::kHalf);
    CHECK_THROWS_WITH(attend(slot, call), "q, k, v are Float, Float, Half, expected one dtype");
  }
  SECTION("lengths") {
    call.layout.b_seq_len_k = at::tensor({5}, at::kInt);
    CHECK_THROWS_WITH(attend(slot, call), "keys of sequence 0 are rows 0 to 5, expected rows inside the tensor of 4");
  }
  SECTION("gradients") {
    call.q.requires_grad_(true);
    CHECK_THROWS_WITH(attend(slot, call), ContainsSubstring("eager attention has no gradient"));
  }
  SECTION("a softmax of another shape") {
    const AttentionSlot wrong = slot_of([](const EagerScores& scores) {
      EagerSoftmax softmax = plain_softmax(scores);
      softmax.attended = softmax.attended[0];
      return softmax;
    });
    CHECK_THROWS_WITH(attend(wrong, good), "softmax returned attended Bool [4, 4], expected Bool [2, 4, 4]");
  }
}
