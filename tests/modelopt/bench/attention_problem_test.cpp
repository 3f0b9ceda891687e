#include <modelopt/bench/attention_problem.h>

#include <ATen/ops/equal.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

namespace modelopt::bench {
namespace {

using Catch::Matchers::ContainsSubstring;

TEST_CASE("patterns are read and written") {
  for (const char* text : {"dense", "1:4", "2:4", "3:4", "1:8", "4:8", "7:8"})
    CHECK(to_string(parse_pattern(text)) == text);
  CHECK(parse_pattern("dense") == Pattern{});
  CHECK(parse_pattern("4:8") == Pattern{.n = 4, .m = 8});
  for (const char* text : {"", "4:4", "0:4", "8:8", "2:6", "2:16", "2/4", "2:4 ", "Dense"})
    CHECK_THROWS_WITH(parse_pattern(text), ContainsSubstring("expected dense, or N:M with M 4 or 8 and 1 <= N < M"));
}

TEST_CASE("operations are those of dense attention, half of them if causal") {
  AttentionShape shape{.batch = 2, .length = 100, .heads = 4, .kv_heads = 2, .head_dim = 8, .is_causal = false};
  CHECK(shape.flops() == 4.0 * 2 * 100 * 100 * 4 * 8);
  shape.is_causal = true;
  CHECK(shape.flops() == 2.0 * 2 * 100 * 100 * 4 * 8);
  shape.decode = true;
  CHECK(shape.flops() == 4.0 * 2 * 100 * 4 * 8);
}

TEST_CASE("both layouts hold the same values, and a seed makes the same ones again") {
  const AttentionShape shape{.batch = 3, .length = 5, .heads = 4, .kv_heads = 2, .head_dim = 8};
  const AttentionProblem problem = make_problem(shape, at::kCPU, at::kBFloat16, 7);
  CHECK(problem.packed.q.sizes() == at::IntArrayRef({15, 4, 8}));
  CHECK(problem.k.sizes() == at::IntArrayRef({3, 2, 5, 8}));
  CHECK(at::equal(problem.q[2][3][4], problem.packed.q[14][3]));
  CHECK(at::equal(problem.v[1][1][0], problem.packed.v[5][1]));
  CHECK(problem.key_value_bytes() == 2 * 3 * 2 * 5 * 8 * 2);
  CHECK(at::equal(problem.q, make_problem(shape, at::kCPU, at::kBFloat16, 7).q));
  CHECK_FALSE(at::equal(problem.q, make_problem(shape, at::kCPU, at::kBFloat16, 8).q));
}

}  // namespace
}  // namespace modelopt::bench
