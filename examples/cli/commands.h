// The subcommands: one file each.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>
#include <memory>

#include "common_options.h"

namespace modelopt::cli {

/// A subcommand of the program, and what it does once its arguments are parsed.
struct Command {
  CLI::App* parser = nullptr;
  std::function<void()> run;
};

/// Ends the declaration of a command with the common options. It runs with those applied.
template <typename Options>
Command finish_command(CLI::App* parser, const std::shared_ptr<Options>& options, void (*run)(const Options&)) {
  add_common_options(*parser, options->common);
  return {parser, [options, run] {
            apply_common_options(options->common);
            run(*options);
          }};
}

Command add_presets(CLI::App& program);
Command add_validate(CLI::App& program);
Command add_inspect(CLI::App& program);
Command add_sparsify(CLI::App& program);
Command add_generate(CLI::App& program);
Command add_eval(CLI::App& program);
Command add_calibrate(CLI::App& program);
Command add_bench(CLI::App& program);
Command add_tokenize(CLI::App& program);
Command add_logits(CLI::App& program);

}  // namespace modelopt::cli
