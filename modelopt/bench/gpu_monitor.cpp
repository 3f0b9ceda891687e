#include <modelopt/bench/gpu_monitor.h>

#include <dlfcn.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

namespace modelopt::bench {
namespace {

using NvmlDevice = void*;
constexpr int kSmClock = 1;  // NVML_CLOCK_SM

template <typename Function>
Function* find_symbol(void* library, const char* name) {
  return library == nullptr ? nullptr : reinterpret_cast<Function*>(::dlsym(library, name));
}

template <typename Function, typename... Arguments>
bool succeeds(Function* function, Arguments... arguments) {
  return function != nullptr && function(arguments...) == 0;
}

// NVML counts GPUs in its own order, and sees those that CUDA_VISIBLE_DEVICES hides: the bus address is what both know.
std::optional<std::string> bus_address(c10::Device device) {
  void* driver = ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  int handle = 0;
  std::array<char, 64> address{};
  const bool found = succeeds(find_symbol<int(unsigned)>(driver, "cuInit"), 0u) &&
                     succeeds(find_symbol<int(int*, int)>(driver, "cuDeviceGet"), &handle,
                              static_cast<int>(device.has_index() ? device.index() : 0)) &&
                     succeeds(find_symbol<int(char*, int, int)>(driver, "cuDeviceGetPCIBusId"), address.data(),
                              static_cast<int>(address.size()), handle);
  return found ? std::optional<std::string>(address.data()) : std::nullopt;
}

}  // namespace

struct GpuMonitor::Library {
  void* nvml = nullptr;
  NvmlDevice device = nullptr;
};

GpuMonitor::GpuMonitor(c10::Device device) {
  if (!device.is_cuda()) return;
  const auto address = bus_address(device);
  void* nvml = ::dlopen("libnvidia-ml.so.1", RTLD_LAZY | RTLD_LOCAL);
  NvmlDevice handle = nullptr;
  const bool found = address && succeeds(find_symbol<int()>(nvml, "nvmlInit_v2")) &&
                     succeeds(find_symbol<int(const char*, NvmlDevice*)>(nvml, "nvmlDeviceGetHandleByPciBusId_v2"),
                              address->c_str(), &handle);
  if (found) library_ = std::make_unique<Library>(Library{nvml, handle});
}

GpuMonitor::~GpuMonitor() {
  if (library_) static_cast<void>(succeeds(find_symbol<int()>(library_->nvml, "nvmlShutdown")));
}

std::optional<std::string> GpuMonitor::name() const {
  std::array<char, 96> name{};
  const bool found =
      library_ && succeeds(find_symbol<int(NvmlDevice, char*, unsigned)>(library_->nvml, "nvmlDeviceGetName"),
                           library_->device, name.data(), static_cast<unsigned>(name.size()));
  return found ? std::optional<std::string>(name.data()) : std::nullopt;
}

std::optional<double> GpuMonitor::sm_clock_mhz() const {
  unsigned mhz = 0;
  const bool found =
      library_ && succeeds(find_symbol<int(NvmlDevice, int, unsigned*)>(library_->nvml, "nvmlDeviceGetClockInfo"),
                           library_->device, kSmClock, &mhz);
  return found ? std::optional<double>(mhz) : std::nullopt;
}

struct ClockSampler::Thread {
  std::mutex mutex;
  std::condition_variable wake;
  bool stopping = false;
  std::vector<double> samples;
  std::thread thread;

  void run(const GpuMonitor& monitor, std::chrono::duration<double> delay) {
    constexpr std::chrono::milliseconds kPeriod(50);
    std::unique_lock lock(mutex);
    const auto stopped = [this] { return stopping; };
    if (wake.wait_for(lock, delay, stopped)) return;
    do {
      if (const auto mhz = monitor.sm_clock_mhz()) samples.push_back(*mhz);
    } while (!wake.wait_for(lock, kPeriod, stopped));
  }

  void stop() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    wake.notify_one();
    if (thread.joinable()) thread.join();
  }
};

ClockSampler::ClockSampler(const GpuMonitor& monitor, double delay) {
  if (!monitor.available()) return;
  thread_ = std::make_unique<Thread>();
  thread_->thread =
      std::thread([this, &monitor, delay] { thread_->run(monitor, std::chrono::duration<double>(delay)); });
}

ClockSampler::~ClockSampler() {
  if (thread_) thread_->stop();
}

std::vector<double> ClockSampler::stop() {
  if (!thread_) return {};
  thread_->stop();
  return std::move(thread_->samples);
}

}  // namespace modelopt::bench
