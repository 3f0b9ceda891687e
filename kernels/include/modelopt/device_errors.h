// What LibTorch throws on a CUDA device, as errors of this project.
#pragma once

#include <c10/core/Device.h>
#include <c10/util/Exception.h>

#include <string>
#include <utility>

#include <modelopt/error.h>

namespace modelopt {

/// What LibTorch's exceptions say in their first line; the rest is advice for debugging it, and stack traces.
[[nodiscard]] inline std::string first_line(const c10::Error& error) {
  const std::string text = error.what_without_backtrace();
  return text.substr(0, text.find('\n'));
}

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
