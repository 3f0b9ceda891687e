// Forward, or forward and backward, of the operator beside PyTorch's own attention, over lengths.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <modelopt/bench/attention_problem.h>
#include <modelopt/bench/candidates.h>

namespace modelopt::bench {

/// The fastest of PyTorch's backends that ran, for each length its own.
inline constexpr const char* kBestSdpa = "best-sdpa";

struct AttentionBenchmarkOptions {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;
  AttentionShape shape;  ///< but for the length
  std::vector<std::int64_t> lengths;
  std::vector<Pattern> patterns;
  DensePart dense;
  std::string kernel = "auto";
  std::string baseline = kBestSdpa;  ///< or the name of a candidate
  int rounds = 5;
  double min_time = 0.7;  ///< seconds for each candidate and round
  std::uint64_t seed = 0;
  std::function<void(std::int64_t done, std::int64_t total)> progress;  ///< in measurements; may be empty
};

struct AttentionBenchmarkRow {
  std::int64_t length = 0;
  std::string candidate;
  std::optional<std::string> not_run;  ///< why; then there is nothing below
  double seconds = 0.0;                ///< of one run: the median over rounds, the fastest and the slowest round
  double seconds_min = 0.0;
  double seconds_max = 0.0;
  double rate = 0.0;      ///< operations of dense attention per second, or bytes in decode; of the rounds of `seconds`,
  double rate_min = 0.0;  ///< the slowest
  double rate_max = 0.0;  ///< and the fastest
  std::optional<double> ratio;    ///< to the baseline's rate, where there is one
  std::optional<double> of_copy;  ///< decode: the share of the bandwidth that copying reaches
  std::optional<double> difference;  ///< dense attention: ‖output − x‖ / ‖x‖, x of PyTorch's first candidate that ran
  std::optional<double> sm_clock_mhz;
};

struct AttentionBenchmark {
  std::string device_name;
  std::vector<AttentionBenchmarkRow> rows;  ///< lengths in order, and in each PyTorch's candidates first
};

/// Throws Unsupported if the operator cannot run the problem with `kernel` or the device has too little memory for it,
/// InvalidArgument for a baseline that is no candidate.
[[nodiscard]] AttentionBenchmark benchmark_attention(const AttentionBenchmarkOptions& options);

}  // namespace modelopt::bench
