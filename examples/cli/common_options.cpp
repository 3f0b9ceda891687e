#include "common_options.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cctype>
#include <string_view>

#include <modelopt/util/log.h>

#include "exit_code.h"

namespace modelopt::cli {
namespace {

void check_device(const std::string& device) {
  if (device == "cpu") return;
  const std::string_view name(device);
  const std::string_view index = name.substr(0, 5) == "cuda:" ? name.substr(5) : std::string_view();
  const bool cuda = device == "cuda" ||
                    (!index.empty() && index.size() <= 3 &&
                     std::all_of(index.begin(), index.end(), [](unsigned char c) { return std::isdigit(c) != 0; }));
  MODELOPT_CHECK(cuda, UsageError, "--device ", device, ": expected cpu, cuda or cuda:N");
  throw Unsupported(str("--device ", device, ": this version has no CUDA backends, expected cpu"));
}

}  // namespace

void add_common_options(CLI::App& command, CommonOptions& options) {
  const std::string group = "Common options";
  command.add_option("--device", options.device, "cpu, cuda or cuda:N (default: cpu)")->group(group);
  command
      .add_option("--dtype", options.dtype,
                  "arithmetic of the model: auto (float32 on the CPU), float32, bfloat16, float16")
      ->check(CLI::IsMember({"auto", "float32", "bfloat16", "float16"}))
      ->group(group);
  command
      .add_option("--backend", options.backend, "of the sparse method: auto (as its configuration says), eager, fused")
      ->check(CLI::IsMember({"auto", "eager", "fused", "pytorch", "triton"}))
      ->group(group);
  command.add_option("--kernel", options.kernel, "of the attention operator: auto, reference, cpu, sm80, sm90")
      ->check(CLI::IsMember({"auto", "reference", "cpu", "sm80", "sm90"}))
      ->group(group);
  command.add_option("--seed", options.seed, "of sampling (default: 0)")->group(group);
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
  check_device(options.device);
  if (options.threads) at::set_num_threads(*options.threads);
  log::set_level(options.quiet ? log::Level::kError : options.verbose ? log::Level::kDebug : log::Level::kInfo);
}

ProgressMode progress_mode(const CommonOptions& options) {
  if (options.progress == "on") return ProgressMode::kOn;
  if (options.progress == "off" || options.quiet) return ProgressMode::kOff;
  return ProgressMode::kAuto;
}

}  // namespace modelopt::cli
