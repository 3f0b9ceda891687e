// CUDA devices for programs and libraries that link LibTorch's CPU part alone.
#pragma once

#include <c10/core/Device.h>
#include <c10/util/Exception.h>

#include <optional>
#include <string>
#include <utility>

#include <modelopt/error.h>

namespace modelopt {

/// Why tensors cannot live on `device`; nullopt if they can. Asking for a CUDA device loads LibTorch's CUDA library
/// (libtorch_cuda.so, from the folder that LibTorch itself was loaded from) and starts CUDA, on the first call.
///
/// Nothing links that library: without a GPU its own dependencies (cuBLAS, cuDNN) need not be installed, and starting a
/// program takes half as long. Call this before anything else asks LibTorch about CUDA: LibTorch remembers the answer.
[[nodiscard]] std::optional<std::string> device_unavailable(c10::Device device);

/// Throws Unsupported, "device <device>: <reason>", where device_unavailable() has one.
void require_device(c10::Device device);

/// Waits until `device` has done what was enqueued on it; nothing on the CPU.
void synchronize(c10::Device device);

/// What LibTorch's exceptions say in their first line; the rest is advice for debugging it, and stack traces.
[[nodiscard]] std::string first_line(const c10::Error& error);

/// Runs `work`. What LibTorch throws on a CUDA device arrives as our error, "<describe()>: <its first line>":
/// Unsupported where the device has too little memory, Error otherwise.
template <typename Describe, typename Work>
decltype(auto) with_device_errors(c10::Device device, const Describe& describe, Work&& work) {
  if (!device.is_cuda()) return std::forward<Work>(work)();
  try {
    return std::forward<Work>(work)();
  } catch (const c10::OutOfMemoryError& error) {
    throw Unsupported(modelopt::str(describe(), ": ", first_line(error)));
  } catch (const c10::Error& error) {
    throw Error(modelopt::str(describe(), ": ", first_line(error)));
  }
}

}  // namespace modelopt
