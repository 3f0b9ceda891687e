// What the driver says about a GPU while it works.
#pragma once

#include <c10/core/Device.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace modelopt::bench {

/// Reads through the driver's NVML library, opened at run time. Where there is none, and for the CPU, nothing is known.
class GpuMonitor {
 public:
  explicit GpuMonitor(c10::Device device);
  ~GpuMonitor();
  GpuMonitor(const GpuMonitor&) = delete;
  GpuMonitor& operator=(const GpuMonitor&) = delete;

  [[nodiscard]] bool available() const { return library_ != nullptr; }
  [[nodiscard]] std::optional<std::string> name() const;
  [[nodiscard]] std::optional<double> sm_clock_mhz() const;

 private:
  struct Library;
  std::unique_ptr<Library> library_;
};

/// Samples the SM clock in a thread of its own while it lives, from when the load has lasted for `delay` seconds.
class ClockSampler {
 public:
  ClockSampler(const GpuMonitor& monitor, double delay);
  ~ClockSampler();
  ClockSampler(const ClockSampler&) = delete;
  ClockSampler& operator=(const ClockSampler&) = delete;

  /// Ends the sampling: MHz, in order; empty where nothing is known.
  [[nodiscard]] std::vector<double> stop();

 private:
  struct Thread;
  std::unique_ptr<Thread> thread_;
};

}  // namespace modelopt::bench
