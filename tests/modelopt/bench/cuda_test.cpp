// The benchmark on a GPU (CTest label gpu).
#include <modelopt/bench/attention_benchmark.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include <modelopt/bench/gpu_monitor.h>
#include <modelopt/bench/stopwatch.h>
#include <modelopt/kernels/attention.h>
#include <modelopt/util/device.h>

namespace modelopt::bench {
namespace {

// A test case may run in a process of its own: asking for the device is what loads LibTorch's CUDA library.
at::Device gpu() {
  require_device(at::kCUDA);
  return {at::kCUDA, 0};
}

AttentionBenchmark run(bool decode) {
  return benchmark_attention({.device = gpu(),
                              .dtype = at::kBFloat16,
                              .shape = {.batch = 2, .heads = 8, .kv_heads = 2, .head_dim = 64, .decode = decode},
                              .lengths = {512},
                              .patterns = {{0, 4}, {2, 4}},
                              .rounds = 2,
                              .min_time = 0.2,
                              .progress = {}});
}

const AttentionBenchmarkRow& row_of(const AttentionBenchmark& benchmark, const std::string& candidate) {
  return *std::find_if(benchmark.rows.begin(), benchmark.rows.end(),
                       [&](const AttentionBenchmarkRow& row) { return row.candidate == candidate; });
}

TEST_CASE("PyTorch's backends and ours run, and compute the same dense attention") {
  const AttentionBenchmark benchmark = run(false);
  std::vector<std::string> names;
  for (const AttentionBenchmarkRow& row : benchmark.rows) names.push_back(row.candidate);
  CHECK(names == std::vector<std::string>{"sdpa/cudnn", "sdpa/flash", "sdpa/efficient", "sdpa/math", "sm90/dense",
                                          "sm90/2:4", "sm80/dense", "sm80/2:4"});
  const bool hopper = kernels::attention_backends().find(R"({"name": "sm90", "available": true)") != std::string::npos;
  for (const AttentionBenchmarkRow& row : benchmark.rows) {
    const std::string& name = row.candidate;
    if (name == "sdpa/cudnn" || (!hopper && name.starts_with("sm90"))) continue;  // what is not there cannot run
    INFO(name << ": " << row.not_run.value_or(""));
    CHECK_FALSE(row.not_run);
  }
  for (const AttentionBenchmarkRow& row : benchmark.rows) {
    INFO(row.candidate);
    if (row.difference) CHECK(*row.difference < 0.01);  // of bf16 outputs
  }
}

TEST_CASE("decode is compared with a copy") {
  const AttentionBenchmark benchmark = run(true);
  CHECK(row_of(benchmark, "copy").rate > 1e11);
  for (const AttentionBenchmarkRow& row : benchmark.rows)
    if (!row.not_run) CHECK(row.of_copy.has_value());
}

TEST_CASE("the clock of a GPU that works is known") {
  const GpuMonitor monitor(gpu());
  REQUIRE(monitor.available());
  CHECK(monitor.name().value_or("").find("NVIDIA") != std::string::npos);
  const AttentionBenchmark benchmark = run(false);
  CHECK(row_of(benchmark, "sdpa/flash").sm_clock_mhz.value_or(0.0) > 100.0);
}

TEST_CASE("events time the device, not the host") {
  const at::Tensor source = at::empty({std::int64_t{1} << 28}, at::TensorOptions(gpu()).dtype(at::kByte));
  const at::Tensor target = at::empty_like(source);
  const auto copy = [&] { target.copy_(source); };
  static_cast<void>(time_runs(source.device(), 1, copy));
  const auto begin = std::chrono::steady_clock::now();
  const double seconds = time_runs(source.device(), 50, copy);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  CHECK(seconds <= elapsed.count());
  CHECK(seconds > 0.5 * elapsed.count());  // the device is what takes the time here
}

}  // namespace
}  // namespace modelopt::bench
