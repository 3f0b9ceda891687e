// Options that every command takes.
#pragma once

#include <CLI/CLI.hpp>
#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <string>

#include "progress_bar.h"

namespace modelopt::cli {

struct CommonOptions {
  std::string device = "cpu";
  std::string dtype = "auto";
  std::string backend = "auto";  ///< of the method
  std::string kernel = "auto";   ///< of the operator
  std::uint64_t seed = 0;
  std::optional<int> threads;
  bool verbose = false;
  bool quiet = false;
  std::string progress = "auto";
};

void add_common_options(CLI::App& command, CommonOptions& options);

/// Starts the device, and sets the log level and the number of threads. Throws UsageError for a device that is no
/// device, Unsupported for one that is not there.
void apply_common_options(const CommonOptions& options);

/// --device; "cuda" is the current one. Throws UsageError for anything else.
[[nodiscard]] at::Device device_of(const CommonOptions& options);

[[nodiscard]] ProgressMode progress_mode(const CommonOptions& options);

}  // namespace modelopt::cli
