// How long work takes on a device.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <functional>

namespace modelopt::bench {

/// Seconds of `repeats` runs of `work`, one after the other: between two events on the current stream of a CUDA device,
/// so that the host's part counts only where it is the slower one; by the wall clock on the CPU.
[[nodiscard]] double time_runs(c10::Device device, std::int64_t repeats, const std::function<void()>& work);

}  // namespace modelopt::bench
