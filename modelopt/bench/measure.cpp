#include <modelopt/bench/measure.h>

#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <modelopt/bench/stopwatch.h>
#include <modelopt/util/device.h>

namespace modelopt::bench {
namespace {

class Runner {
 public:
  Runner(const Candidate& candidate, c10::Device device, const GpuMonitor& monitor)
      : candidate_(candidate), device_(device), monitor_(monitor) {
    result_.name = candidate.name;
    result_.work = candidate.work;
    result_.not_run = candidate.unsupported;
  }

  // The first run loads code and chooses algorithms; the second one says how long a run takes.
  void warm_up() {
    attempt([this] {
      result_.output = candidate_.run();
      synchronize(device_);
      seconds_per_run_ = time_runs(device_, 1, [this] { candidate_.run(); });
    });
  }

  void measure(double min_time) {
    attempt([&] {
      // What the clock does at first is the candidate's before this one.
      ClockSampler sampler(monitor_, 0.4 * min_time);
      double seconds = 0.0;
      std::int64_t runs = 0;
      while (seconds < min_time) {
        const std::int64_t more = runs_for(min_time - seconds);
        seconds += time_runs(device_, more, [this] { candidate_.run(); });
        runs += more;
        seconds_per_run_ = seconds / static_cast<double>(runs);
      }
      result_.seconds.push_back(seconds_per_run_);
      for (const double mhz : sampler.stop()) result_.sm_clocks.push_back(mhz);
    });
  }

  Measurement finish() {
    if (result_.not_run) result_.seconds.clear();
    std::sort(result_.seconds.begin(), result_.seconds.end());
    return std::move(result_);
  }

 private:
  [[nodiscard]] std::int64_t runs_for(double seconds) const {
    constexpr double kMostRuns = 1e6;  // where a run is too short for the clock
    return static_cast<std::int64_t>(std::clamp(std::ceil(seconds / seconds_per_run_), 1.0, kMostRuns));
  }

  template <typename Work>
  void attempt(Work work) {
    if (result_.not_run) return;
    try {
      work();
    } catch (const c10::Error& error) {
      result_.not_run = first_line(error);
    } catch (const Error& error) {
      result_.not_run = error.what();
    }
  }

  const Candidate& candidate_;
  c10::Device device_;
  const GpuMonitor& monitor_;
  double seconds_per_run_ = 0.0;
  Measurement result_;
};

}  // namespace

std::vector<Measurement> measure(const std::vector<Candidate>& candidates, c10::Device device,
                                 const GpuMonitor& monitor, const MeasureOptions& options) {
  const c10::InferenceMode no_gradients;
  const auto measured = [&] {
    if (options.after_measurement) options.after_measurement();
  };
  std::vector<Runner> runners;
  for (const Candidate& candidate : candidates) runners.emplace_back(candidate, device, monitor);
  for (Runner& runner : runners) {
    runner.warm_up();
    measured();
  }
  for (int round = 0; round < options.rounds; ++round) {
    for (std::size_t i = 0; i < runners.size(); ++i) {
      runners[(static_cast<std::size_t>(round) + i) % runners.size()].measure(options.min_time);
      measured();
    }
  }
  std::vector<Measurement> results;
  for (Runner& runner : runners) results.push_back(runner.finish());
  return results;
}

double median(std::vector<double> values) {
  MODELOPT_CHECK(!values.empty(), InvalidArgument, "a median of no values, expected at least one");
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2.0;
}

}  // namespace modelopt::bench
