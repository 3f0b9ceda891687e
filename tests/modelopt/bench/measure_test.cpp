#include <modelopt/bench/measure.h>

#include <ATen/ops/zeros.h>

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

namespace modelopt::bench {
namespace {

// Takes at least a millisecond a run and notes its name.
Candidate sleeper(const std::string& name, std::vector<std::string>& log) {
  return {.name = name,
          .work = 1.0,
          .run =
              [name, &log] {
                log.push_back(name);
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
                return at::zeros({1});
              },
          .unsupported = std::nullopt};
}

// Without repetitions of the same name.
std::vector<std::string> turns(const std::vector<std::string>& log) {
  std::vector<std::string> result;
  for (const std::string& name : log)
    if (result.empty() || result.back() != name) result.push_back(name);
  return result;
}

TEST_CASE("candidates take turns, and each round begins with another one") {
  std::vector<std::string> log;
  const auto measurements = measure({sleeper("a", log), sleeper("b", log), sleeper("c", log)}, at::kCPU,
                                    GpuMonitor(at::kCPU), {.rounds = 3, .min_time = 0.002});
  CHECK(turns(log) == std::vector<std::string>{"a", "b", "c",  // warm-up
                                               "a", "b", "c",  // first round
                                               "b", "c", "a",  // second
                                               "c", "a", "b"});
  for (const Measurement& measurement : measurements) {
    CHECK(measurement.seconds.size() == 3);
    CHECK(std::is_sorted(measurement.seconds.begin(), measurement.seconds.end()));
    CHECK(measurement.seconds.front() >= 0.001);
    CHECK(measurement.output.defined());
    CHECK(measurement.sm_clocks.empty());
  }
}

TEST_CASE("a candidate runs for the time that was asked for") {
  std::vector<std::string> log;
  const auto begin = std::chrono::steady_clock::now();
  const auto measurements =
      measure({sleeper("a", log)}, at::kCPU, GpuMonitor(at::kCPU), {.rounds = 2, .min_time = 0.05});
  CHECK(std::chrono::steady_clock::now() - begin >= std::chrono::milliseconds(100));
  CHECK(log.size() > 4);
  CHECK(measurements[0].seconds.size() == 2);
}

TEST_CASE("a candidate that fails is out, and says why in one line") {
  std::vector<std::string> log;
  int runs = 0;
  const auto failing = [](auto run) { return Candidate{.name = "failing", .run = run, .unsupported = std::nullopt}; };
  const std::vector<Candidate> candidates = {failing([&]() -> at::Tensor { return ++runs, at::zeros({1}).view({2}); }),
                                             failing([]() -> at::Tensor { throw Unsupported("not here"); }),
                                             {.name = "known", .run = {}, .unsupported = "not on this device"},
                                             sleeper("a", log)};
  const auto measurements = measure(candidates, at::kCPU, GpuMonitor(at::kCPU), {.rounds = 2, .min_time = 0.0});
  CHECK(runs == 1);
  REQUIRE(measurements[0].not_run);
  CHECK(measurements[0].not_run->find("shape '[2]' is invalid for input of size 1") != std::string::npos);
  CHECK(measurements[0].not_run->find('\n') == std::string::npos);
  CHECK(measurements[1].not_run == "not here");
  CHECK(measurements[2].not_run == "not on this device");
  for (std::size_t i = 0; i < 3; ++i) CHECK(measurements[i].seconds.empty());
  CHECK_FALSE(measurements[3].not_run);
}

TEST_CASE("progress is told of each measurement") {
  std::vector<std::string> log;
  int calls = 0;
  static_cast<void>(measure({sleeper("a", log), sleeper("b", log)}, at::kCPU, GpuMonitor(at::kCPU),
                            {.rounds = 3, .min_time = 0.0, .after_measurement = [&] { ++calls; }}));
  CHECK(calls == 8);
}

TEST_CASE("medians") {
  CHECK(median({3.0}) == 3.0);
  CHECK(median({9.0, 1.0, 4.0}) == 4.0);
  CHECK(median({9.0, 1.0, 4.0, 2.0}) == 3.0);
  CHECK_THROWS_AS(median({}), InvalidArgument);
}

}  // namespace
}  // namespace modelopt::bench
