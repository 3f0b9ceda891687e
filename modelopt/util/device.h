// CUDA devices for programs and libraries that link LibTorch's CPU part alone.
#pragma once

#include <c10/core/Device.h>

#include <optional>
#include <string>

#include <modelopt/device_errors.h>

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

}  // namespace modelopt
