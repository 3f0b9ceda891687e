#include <modelopt/models/rotary_embedding.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <nlohmann/json.hpp>

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include <modelopt/error.h>

using namespace modelopt;
using namespace modelopt::models;
using nlohmann::json;

namespace {

RopeType type_of(const std::string& name) {
  if (name == "default") return RopeType::kDefault;
  if (name == "linear") return RopeType::kLinear;
  if (name == "dynamic") return RopeType::kDynamic;
  if (name == "llama3") return RopeType::kLlama3;
  REQUIRE(name == "yarn");
  return RopeType::kYarn;
}

RopeConfig rope_of(const json& golden) {
  const json& scaling = golden["scaling"];
  RopeConfig rope;
  rope.type = type_of(golden["rope_type"]);
  rope.theta = golden["rope_theta"];
  rope.factor = scaling.value("factor", 1.0);
  rope.original_max_position_embeddings = scaling.value("original_max_position_embeddings", 0);
  rope.low_freq_factor = scaling.value("low_freq_factor", rope.low_freq_factor);
  rope.high_freq_factor = scaling.value("high_freq_factor", rope.high_freq_factor);
  rope.beta_fast = scaling.value("beta_fast", rope.beta_fast);
  rope.beta_slow = scaling.value("beta_slow", rope.beta_slow);
  rope.truncate = scaling.value("truncate", true);
  if (scaling.contains("attention_factor")) rope.attention_factor = scaling["attention_factor"].get<double>();
  if (scaling.contains("mscale")) rope.mscale = scaling["mscale"].get<double>();
  if (scaling.contains("mscale_all_dim")) rope.mscale_all_dim = scaling["mscale_all_dim"].get<double>();
  return rope;
}

at::Tensor floats(const json& values) { return at::tensor(values.get<std::vector<double>>(), at::kDouble); }

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

RopeConfig rope_with(RopeType type, double factor = 4.0) {
  RopeConfig rope;
  rope.type = type;
  rope.factor = factor;
  rope.original_max_position_embeddings = 64;
  return rope;
}

}  // namespace

TEST_CASE("Frequencies, cosines and sines are those of transformers") {
  std::ifstream file(MODELOPT_TEST_DATA "/rope/transformers.json");
  const json goldens = json::parse(file);
  REQUIRE(goldens["cases"].size() == 11);
  for (const json& golden : goldens["cases"]) {
    INFO(golden["name"].get<std::string>());
    const std::int64_t head_dim = golden["head_dim"], length = golden["length"];
    const RotaryEmbedding rotary(rope_of(golden), head_dim, golden["max_position_embeddings"]);

    constexpr double kUlp = 1.2e-7;
    const at::Tensor expected = floats(golden["inv_freq"]);
    const at::Tensor relative = (rotary.inverse_frequencies(length).to(at::kDouble) - expected).abs() / expected;
    CHECK(relative.max().item<double>() < 4 * kUlp);
    CHECK(std::abs(rotary.attention_factor() - golden["attention_factor"].get<double>()) < 1e-12);

    const RotaryTable table = rotary.forward(at::arange(length, at::kLong), {length}, {length}, at::kFloat);
    REQUIRE(table.cos.sizes() == at::IntArrayRef{length, 1, head_dim});
    const std::vector<std::int64_t> positions = golden["positions"];
    for (std::size_t i = 0; i < positions.size(); ++i) {
      INFO("position " << positions[i]);
      const at::Tensor cos = table.cos[positions[i]][0], sin = table.sin[positions[i]][0];
      // the angle p * f inherits the relative error of f
      const double tolerance = 4 * kUlp * static_cast<double>(positions[i] + 2);
      CHECK(largest_difference(cos.narrow(0, 0, head_dim / 2), floats(golden["cos"][i])) < tolerance);
      CHECK(largest_difference(sin.narrow(0, 0, head_dim / 2), floats(golden["sin"][i])) < tolerance);
      CHECK(at::equal(cos.narrow(0, 0, head_dim / 2), cos.narrow(0, head_dim / 2, head_dim / 2)));
    }
  }
}

TEST_CASE("A pair of dimensions half a head apart is rotated by position times frequency") {
  const RotaryEmbedding rotary({}, 4, 16);  // frequencies 1 and 0.01
  const RotaryTable table = rotary.forward(at::tensor({2}, at::kLong), {1}, {1}, at::kFloat);
  const at::Tensor x = at::tensor({1.0F, 0.0F, 0.0F, 1.0F}).view({1, 1, 4});
  const at::Tensor y = apply_rotary(x, table).flatten();
  const at::Tensor expected = at::tensor({std::cos(2.0), -std::sin(0.02), std::sin(2.0), std::cos(0.02)}, at::kDouble);
  CHECK(largest_difference(y, expected) < 1e-7);
}

TEST_CASE("Tables are rounded to the model's dtype once") {
  const RotaryEmbedding rotary(rope_with(RopeType::kYarn), 8, 256);
  const at::Tensor positions = at::arange(20, at::kLong);
  const RotaryTable wide = rotary.forward(positions, {20}, {20}, at::kFloat);
  const RotaryTable narrow = rotary.forward(positions, {20}, {20}, at::kBFloat16);
  CHECK(at::equal(narrow.cos, wide.cos.to(at::kBFloat16)));
  CHECK(at::equal(narrow.sin, wide.sin.to(at::kBFloat16)));
}

TEST_CASE("dynamic takes the prompt's length, whatever the chunk and the neighbours") {
  const RotaryEmbedding rotary(rope_with(RopeType::kDynamic), 8, 16);
  const at::Tensor positions = at::arange(40, at::kLong);
  const at::Tensor whole = rotary.forward(positions, {40}, {40}, at::kFloat).cos;
  const at::Tensor first = rotary.forward(positions.narrow(0, 0, 10), {10}, {40}, at::kFloat).cos;
  CHECK(at::equal(first, whole.narrow(0, 0, 10)));
  const at::Tensor batched =
      rotary.forward(at::cat({positions.narrow(0, 0, 10), positions}), {10, 40}, {10, 40}, at::kFloat).cos;
  CHECK(at::equal(batched.narrow(0, 10, 40), whole));
  CHECK_FALSE(at::equal(batched.narrow(0, 0, 10), first));
  const RotaryEmbedding plain({}, 8, 16);
  CHECK(at::equal(batched.narrow(0, 0, 10), plain.forward(positions.narrow(0, 0, 10), {10}, {10}, at::kFloat).cos));
}

TEST_CASE("Scaling parameters out of their domain are refused") {
  const auto build = [](const RopeConfig& rope, std::int64_t head_dim = 8) {
    return RotaryEmbedding(rope, head_dim, 64);
  };
  CHECK_THROWS_WITH(build({}, 7), "head_dim is 7, expected an even number for rotary embeddings");
  CHECK_THROWS_WITH(build(rope_with(RopeType::kLinear, 0.5)),
                    "rope factor is 0.5, expected a finite number of at least 1");
  CHECK_THROWS_WITH(build(rope_with(RopeType::kDynamic), 2), "head_dim is 2, expected above 2 for rope_type dynamic");
  RopeConfig rope = rope_with(RopeType::kDefault);
  rope.theta = 0;
  CHECK_THROWS_WITH(build(rope), "rope_theta is 0, expected a finite number above 0");
  rope = rope_with(RopeType::kLlama3);
  rope.low_freq_factor = 4;
  CHECK_THROWS_WITH(
      build(rope), "low_freq_factor and high_freq_factor are 4 and 4, expected 0 < low_freq_factor < high_freq_factor");
  rope = rope_with(RopeType::kYarn);
  rope.original_max_position_embeddings = 0;
  CHECK_THROWS_WITH(build(rope), "original_max_position_embeddings is 0, expected at least 1");
  rope = rope_with(RopeType::kYarn);
  rope.beta_slow = 33;
  CHECK_THROWS_WITH(build(rope), "beta_fast and beta_slow are 32 and 33, expected 0 < beta_slow <= beta_fast");
}
