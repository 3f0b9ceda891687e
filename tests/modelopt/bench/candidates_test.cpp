#include <modelopt/bench/candidates.h>

#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <string>
#include <vector>

namespace modelopt::bench {
namespace {

using Catch::Matchers::ContainsSubstring;

std::vector<std::string> names(const std::vector<Candidate>& candidates) {
  std::vector<std::string> result;
  for (const Candidate& candidate : candidates) result.push_back(candidate.name);
  return result;
}

TEST_CASE("every dense candidate computes the same attention") {
  for (const bool decode : {false, true}) {
    for (const bool is_causal : {true, false}) {
      const AttentionShape shape{.batch = 2,
                                 .length = 70,
                                 .heads = 6,
                                 .kv_heads = 2,
                                 .head_dim = 16,
                                 .is_causal = is_causal,
                                 .decode = decode};
      const AttentionProblem problem = make_problem(shape, at::kCPU, at::kFloat, 0);
      const at::Tensor expected =
          at::scaled_dot_product_attention(problem.q, problem.k, problem.v, {}, 0.0, is_causal && !decode, {}, true)
              .transpose(1, 2)
              .flatten(0, 1);
      std::vector<Candidate> candidates = sdpa_candidates(problem);
      CHECK(names(candidates) == std::vector<std::string>{"sdpa/flash", "sdpa/math"});
      for (const Candidate& own : operator_candidates(problem, {Pattern{}}, {}, "auto")) candidates.push_back(own);
      CHECK(candidates.back().name == "cpu/dense");
      for (const Candidate& candidate : candidates) {
        INFO(candidate.name);
        CHECK(candidate.is_dense_attention);
        CHECK_FALSE(candidate.unsupported);
        CHECK(candidate.work == (decode ? problem.key_value_bytes() : shape.flops()));
        const at::Tensor output = candidate.run();
        CHECK(output.sizes() == problem.packed.q.sizes());
        CHECK(at::allclose(output, expected, 1e-4, 1e-5));
      }
    }
  }
}

TEST_CASE("patterns reach the operator with their dense part") {
  const AttentionShape shape{.length = 70, .heads = 2, .kv_heads = 2, .head_dim = 16};
  const AttentionProblem problem = make_problem(shape, at::kCPU, at::kFloat, 0);
  const auto candidates =
      operator_candidates(problem, {{1, 4}, {4, 8}}, {.num_sink_tokens = 3, .dense_window_size = 5}, "reference");
  CHECK(names(candidates) == std::vector<std::string>{"reference/1:4", "reference/4:8"});
  for (std::size_t i = 0; i < 2; ++i) {
    kernels::AttentionArgs args = problem.packed;
    args.sparsity_n = i == 0 ? 1 : 4;
    args.sparsity_m = i == 0 ? 4 : 8;
    args.num_sink_tokens = 3;
    args.dense_window_size = 5;
    args.backend = "reference";
    CHECK(at::equal(candidates[i].run(), kernels::attention(args).output));
    CHECK_FALSE(candidates[i].is_dense_attention);
  }
}

TEST_CASE("a kernel that cannot run the problem is an error") {
  const AttentionProblem problem = make_problem({.length = 8}, at::kCPU, at::kFloat, 0);
  CHECK_THROWS_AS(operator_candidates(problem, {Pattern{}}, {}, "sm90"), Unsupported);
}

TEST_CASE("scores that do not fit are not tried") {
  AttentionShape shape{.batch = 1, .length = 32768, .heads = 1, .kv_heads = 1, .head_dim = 1};
  CHECK_FALSE(sdpa_candidates(make_problem(shape, at::kCPU, at::kFloat, 0)).back().unsupported);
  shape.length += 1;
  const auto reason = sdpa_candidates(make_problem(shape, at::kCPU, at::kFloat, 0)).back().unsupported;
  REQUIRE(reason);
  CHECK_THAT(*reason, ContainsSubstring("GiB, expected at most 4 on the CPU"));
}

TEST_CASE("a copy moves the bytes of the keys and values twice") {
  const AttentionProblem problem = make_problem({.length = 64, .decode = true}, at::kCPU, at::kFloat, 0);
  const Candidate copy = copy_candidate(problem);
  CHECK(copy.work == 2 * problem.key_value_bytes());
  CHECK(static_cast<double>(copy.run().nbytes()) == problem.key_value_bytes());
}

}  // namespace
}  // namespace modelopt::bench
