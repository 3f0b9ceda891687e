// The subcommands: one file each.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>

namespace modelopt::cli {

/// A subcommand of the program, and what it does once its arguments are parsed.
struct Command {
  CLI::App* parser = nullptr;
  std::function<void()> run;
};

Command add_presets(CLI::App& program);
Command add_validate(CLI::App& program);
Command add_inspect(CLI::App& program);
Command add_sparsify(CLI::App& program);
Command add_generate(CLI::App& program);
Command add_eval(CLI::App& program);
Command add_tokenize(CLI::App& program);
Command add_logits(CLI::App& program);

}  // namespace modelopt::cli
