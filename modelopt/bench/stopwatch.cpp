#include <modelopt/bench/stopwatch.h>

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <chrono>

namespace modelopt::bench {
namespace {

double time_on_host(std::int64_t repeats, const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  for (std::int64_t i = 0; i < repeats; ++i) work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// LibTorch's device-generic events, because nothing here links the CUDA runtime.
double time_on_device(c10::Device device, std::int64_t repeats, const std::function<void()>& work) {
  constexpr auto kWithTime = c10::EventFlag::BACKEND_DEFAULT;  // PyTorch's own default has none
  c10::Event begin(device.type(), kWithTime);
  c10::Event end(device.type(), kWithTime);
  const c10::Stream stream = c10::impl::VirtualGuardImpl(device.type()).getStream(device);
  begin.record(stream);
  for (std::int64_t i = 0; i < repeats; ++i) work();
  end.record(stream);
  end.synchronize();
  return begin.elapsedTime(end) / 1000.0;
}

}  // namespace

double time_runs(c10::Device device, std::int64_t repeats, const std::function<void()>& work) {
  return device.is_cpu() ? time_on_host(repeats, work) : time_on_device(device, repeats, work);
}

}  // namespace modelopt::bench
