#include <modelopt/bench/attention_benchmark.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <algorithm>
#include <string>
#include <vector>

namespace modelopt::bench {
namespace {

using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::WithinRel;

AttentionBenchmarkOptions tiny() {
  return {.shape = {.heads = 2, .kv_heads = 1, .head_dim = 16},
          .lengths = {24, 48},
          .patterns = {{0, 4}, {2, 4}},
          .dense = {.num_sink_tokens = 0, .dense_window_size = 4},
          .rounds = 2,
          .min_time = 0.001,
          .progress = {}};
}

TEST_CASE("each length has a row for each candidate, and ratios to PyTorch's fastest") {
  const AttentionBenchmark benchmark = benchmark_attention(tiny());
  CHECK_FALSE(benchmark.device_name.empty());
  REQUIRE(benchmark.rows.size() == 8);
  const std::vector<std::string> names = {"sdpa/flash", "sdpa/math", "cpu/dense", "cpu/2:4"};
  for (std::size_t i = 0; i < 8; ++i) {
    const AttentionBenchmarkRow& row = benchmark.rows[i];
    const std::size_t first = i / 4 * 4;
    INFO(row.candidate);
    CHECK(row.candidate == names[i % 4]);
    CHECK(row.length == (i < 4 ? 24 : 48));
    CHECK_FALSE(row.not_run);
    CHECK(row.rate_min <= row.rate);
    CHECK(row.rate <= row.rate_max);
    CHECK_THAT(row.rate * row.seconds, WithinRel(2.0 * 2 * 16 * static_cast<double>(row.length * row.length), 1e-9));
    REQUIRE(row.ratio);
    const double best = std::max(benchmark.rows[first].rate, benchmark.rows[first + 1].rate);
    CHECK_THAT(*row.ratio, WithinRel(row.rate / best, 1e-9));
    CHECK_FALSE(row.of_copy);
    CHECK_FALSE(row.sm_clock_mhz);
    if (row.candidate == "cpu/2:4") {
      CHECK_FALSE(row.difference);
    } else {
      REQUIRE(row.difference);
      CHECK(*row.difference < 1e-5);
    }
  }
}

TEST_CASE("decode is compared with a copy") {
  AttentionBenchmarkOptions options = tiny();
  options.shape.decode = true;
  options.lengths = {64};
  options.patterns = {{0, 4}};
  options.baseline = "sdpa/math";
  const AttentionBenchmark benchmark = benchmark_attention(options);
  REQUIRE(benchmark.rows.size() == 4);
  CHECK(benchmark.rows[1].ratio == 1.0);
  CHECK(benchmark.rows[3].candidate == "copy");
  CHECK(benchmark.rows[3].of_copy == 1.0);
  for (const AttentionBenchmarkRow& row : benchmark.rows) REQUIRE(row.of_copy);
  CHECK_THAT(benchmark.rows[2].rate * benchmark.rows[2].seconds, WithinRel(2.0 * 64 * 16 * 4, 1e-9));
}

TEST_CASE("a candidate that does not run has its reason and no figures") {
  AttentionBenchmarkOptions options = tiny();
  options.lengths = {33000};
  options.shape = {.heads = 1, .kv_heads = 1, .head_dim = 1};
  options.patterns = {{0, 4}};
  options.rounds = 1;
  const AttentionBenchmark benchmark = benchmark_attention(options);
  REQUIRE(benchmark.rows[1].not_run);
  CHECK_THAT(*benchmark.rows[1].not_run, ContainsSubstring("its matrix of scores takes"));
  CHECK_FALSE(benchmark.rows[1].ratio);
  CHECK(benchmark.rows[0].ratio == 1.0);  // the only one left is the fastest
}

TEST_CASE("a baseline that is no candidate is an error that lists them") {
  AttentionBenchmarkOptions options = tiny();
  options.baseline = "sdpa/cudnn";
  CHECK_THROWS_WITH(benchmark_attention(options),
                    "baseline sdpa/cudnn: expected one of best-sdpa, sdpa/flash, sdpa/math, cpu/dense, cpu/2:4");
}

TEST_CASE("progress ends at its total") {
  AttentionBenchmarkOptions options = tiny();
  std::int64_t last = 0;
  std::int64_t total_of_all = 0;
  options.progress = [&](std::int64_t done, std::int64_t total) {
    CHECK(done == last + 1);
    last = done;
    total_of_all = total;
  };
  static_cast<void>(benchmark_attention(options));
  CHECK(last == 24);  // 2 lengths of 4 candidates: a warm-up and 2 rounds each
  CHECK(total_of_all == 24);
}

}  // namespace
}  // namespace modelopt::bench
