// Timing candidates beside each other.
#pragma once

#include <c10/core/Device.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <modelopt/bench/candidates.h>
#include <modelopt/bench/gpu_monitor.h>

namespace modelopt::bench {

struct MeasureOptions {
  int rounds = 5;
  double min_time = 0.7;                    ///< seconds that a candidate runs in each round, at least
  std::function<void()> after_measurement;  ///< called after each warm-up and each measurement; may be empty
};

struct Measurement {
  std::string name;
  double work = 0.0;
  std::optional<std::string> not_run;  ///< why there are no seconds
  std::vector<double> seconds;         ///< of one run, for each round, sorted
  std::vector<double> sm_clocks;       ///< MHz while it ran, over all rounds
  at::Tensor output;                   ///< of its first run; undefined if it did not run
};

/// Warms every candidate up, then measures each one in every round, each round beginning with the next candidate, so
/// that a machine whose speed drifts slows all of them alike. One that fails is out from then on, with the reason.
[[nodiscard]] std::vector<Measurement> measure(const std::vector<Candidate>& candidates, c10::Device device,
                                               const GpuMonitor& monitor, const MeasureOptions& options);

/// The mean of the two in the middle where their number is even. Throws InvalidArgument for no values.
[[nodiscard]] double median(std::vector<double> values);

}  // namespace modelopt::bench
