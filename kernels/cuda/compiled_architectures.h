// What of a build's CUDA code a GPU can run (CUDA programming guide, "Binary Compatibility" and "PTX Compatibility").
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string_view>

namespace modelopt::kernels::cuda {

/// Compute capability times ten: 89 is 8.9.
using Architecture = int;

struct CompiledCode {
  bool machine_code = false;        ///< some of it runs on the GPU
  std::optional<Architecture> ptx;  ///< otherwise the newest PTX that the driver can compile for the GPU
};

/// What of `architectures`, as CMake lists them ("80-real;90a-real;80-virtual", separated by ';' or ','), serves a GPU.
/// Machine code runs on GPUs of its major version from its minor version on, that of an architecture with a letter
/// (90a) on this one alone; PTX without a letter can be compiled for every GPU that is not older. Names that are not
/// numbers ("native") are taken to hold machine code.
[[nodiscard]] constexpr CompiledCode compiled_code_for(Architecture gpu, std::string_view architectures) {
  CompiledCode code;
  while (!architectures.empty()) {
    const std::size_t end = std::min(architectures.find_first_of(";,"), architectures.size());
    const std::string_view name = architectures.substr(0, end);
    architectures.remove_prefix(std::min(end + 1, architectures.size()));
    Architecture architecture = 0;
    std::size_t digits = 0;
    for (; digits < name.size() && name[digits] >= '0' && name[digits] <= '9'; ++digits) {
      architecture = 10 * architecture + (name[digits] - '0');
    }
    const std::string_view rest = name.substr(digits);
    const bool specific = !rest.empty() && rest.front() != '-';
    if (digits == 0) {
      code.machine_code = code.machine_code || !name.empty();
      continue;
    }
    if (!rest.ends_with("-virtual")) {
      const bool runs = specific ? gpu == architecture : gpu / 10 == architecture / 10 && gpu >= architecture;
      code.machine_code = code.machine_code || runs;
    }
    if (!rest.ends_with("-real") && !specific && gpu >= architecture) {
      code.ptx = std::max(code.ptx.value_or(0), architecture);
    }
  }
  return code;
}

}  // namespace modelopt::kernels::cuda
