#include <modelopt/bench/gpu_monitor.h>

#include <catch2/catch_test_macros.hpp>

namespace modelopt::bench {
namespace {

TEST_CASE("nothing is known of a GPU that is not there") {
  for (const c10::Device device : {c10::Device(c10::kCPU), c10::Device(c10::kCUDA, 100)}) {
    const GpuMonitor monitor(device);
    CHECK_FALSE(monitor.available());
    CHECK_FALSE(monitor.name());
    CHECK_FALSE(monitor.sm_clock_mhz());
    ClockSampler sampler(monitor, 0.0);
    CHECK(sampler.stop().empty());
  }
}

}  // namespace
}  // namespace modelopt::bench
