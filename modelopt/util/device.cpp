#include <modelopt/util/device.h>

#include <ATen/Context.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <filesystem>

namespace modelopt {
namespace {

/// nullopt: loaded, for as long as the process lives. Otherwise the dynamic linker's reason.
std::optional<std::string> load_library(const std::string& name, int flags) {
  if (::dlopen(name.c_str(), flags) != nullptr) return std::nullopt;
  const char* reason = ::dlerror();
  return reason != nullptr ? reason : "cannot load " + name;
}

std::string libtorch_cuda_path() {
  Dl_info libtorch_cpu{};
  const bool found = ::dladdr(reinterpret_cast<const void*>(&at::globalContext), &libtorch_cpu) != 0;
  MODELOPT_CHECK(found, Error, "the folder of LibTorch is not known to the dynamic linker");
  return (std::filesystem::path(libtorch_cpu.dli_fname).parent_path() / "libtorch_cuda.so").string();
}

std::optional<std::string> start_cuda() {
  // The driver first: it is what is missing on most machines, and LibTorch's library takes a while to load.
  if (const auto reason = load_library("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL))
    return str("needs an NVIDIA driver, there is none (", *reason, ")");
  // Global: the library registers its operators, and the libraries that it opens itself look for its symbols.
  if (const auto reason = load_library(libtorch_cuda_path(), RTLD_NOW | RTLD_GLOBAL))
    return str("needs LibTorch's CUDA library, which cannot be loaded (", *reason, ")");
  if (!at::globalContext().hasCUDART())
    return "LibTorch was asked about CUDA before its CUDA library was loaded (modelopt/util/device.h)";
  try {
    at::globalContext().lazyInitDevice(c10::DeviceType::CUDA);
  } catch (const c10::Error& error) {
    return first_line(error);
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> device_unavailable(c10::Device device) {
  if (device.is_cpu()) return std::nullopt;
  if (!device.is_cuda()) return "expected cpu or cuda";
  static const std::optional<std::string> reason = start_cuda();
  if (reason) return reason;
  const int count = at::detail::getCUDAHooks().deviceCount();
  if (device.index() >= count)
    return count == 1 ? "there is one CUDA device, expected cuda:0"
                      : str("there are ", count, " CUDA devices, expected cuda:0 to cuda:", count - 1);
  return std::nullopt;
}

void require_device(c10::Device device) {
  const auto reason = device_unavailable(device);
  MODELOPT_CHECK(!reason, Unsupported, "device ", device, ": ", *reason);
}

void synchronize(c10::Device device) {
  if (!device.is_cuda()) return;
  const c10::impl::VirtualGuardImpl cuda(device.type());
  with_device_errors(
      device, [&] { return modelopt::str("waiting for ", device); },
      [&] { cuda.synchronizeDevice(device.has_index() ? device.index() : cuda.getDevice().index()); });
}

}  // namespace modelopt
