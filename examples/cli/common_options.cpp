#include "common_options.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cctype>
#include <limits>

#include <modelopt/util/device.h>
#include <modelopt/util/log.h>

#include "exit_code.h"

namespace modelopt::cli {
namespace {

void check_device(const CommonOptions& options) {
  const auto reason = device_unavailable(device_of(options));
  MODELOPT_CHECK(!reason, Unsupported, "--device ", options.device, ": ", *reason);
}

}  // namespace

at::Device device_of(const CommonOptions& options) {
  const std::string& name = options.device;
  if (name == "cpu") return at::kCPU;
  if (name == "cuda") return at::kCUDA;
  const std::string index = name.starts_with("cuda:") ? name.substr(5) : "";
  const bool number = !index.empty() && index.size() <= 3 &&
                      std::all_of(index.begin(), index.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
  MODELOPT_CHECK(number, UsageError, "--device ", name, ": expected cpu, cuda or cuda:N");
  // no machine has a device of the largest index either
  constexpr int kLargest = std::numeric_limits<c10::DeviceIndex>::max();
  return {at::kCUDA, static_cast<c10::DeviceIndex>(std::min(std::stoi(index), kLargest))};
}

void add_common_options(CLI::App& command, CommonOptions& options) {
  const std::string group = "Common options";
  command.add_option("--device", options.device, "cpu, cuda or cuda:N (default: cpu)")->group(group);
  command
      .add_option("--dtype", options.dtype,
                  "arithmetic of the model: auto (float32 on the CPU; on a GPU the checkpoint's, but bfloat16 for "
                  "float32), float32, bfloat16, float16")
      ->check(CLI::IsMember({"auto", "float32", "bfloat16", "float16"}))
      ->group(group);
  command
      .add_option("--backend", options.backend, "of the sparse method: auto (as its configuration says), eager, fused")
      ->check(CLI::IsMember({"auto", "eager", "fused", "pytorch", "triton"}))
      ->group(group);
  command.add_option("--kernel", options.kernel, "of the attention operator: auto, reference, cpu, sm80, sm90")
      ->check(CLI::IsMember({"auto", "reference", "cpu", "sm80", "sm90"}))
      ->group(group);
  command.add_option("--seed", options.seed, "of sampling, and of prompts that are made (default: 0)")->group(group);
  command.add_option("--threads", options.threads, "CPU threads (default: all cores)")
      ->check(CLI::Range(1, 4096))
      ->group(group);
  CLI::Option* verbose = command.add_flag("-v,--verbose", options.verbose, "more log lines")->group(group);
  command.add_flag("-q,--quiet", options.quiet, "errors only, and no progress bars")->excludes(verbose)->group(group);
  command.add_option("--progress", options.progress, "progress bars on stderr: auto (where it is a terminal), on, off")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->group(group);
}

void apply_common_options(const CommonOptions& options) {
  check_device(options);
  if (options.threads) at::set_num_threads(*options.threads);
  log::set_level(options.quiet ? log::Level::kError : options.verbose ? log::Level::kDebug : log::Level::kInfo);
}

ProgressMode progress_mode(const CommonOptions& options) {
  if (options.progress == "on") return ProgressMode::kOn;
  if (options.progress == "off" || options.quiet) return ProgressMode::kOff;
  return ProgressMode::kAuto;
}

}  // namespace modelopt::cli
