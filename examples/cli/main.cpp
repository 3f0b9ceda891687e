// modelopt: sparse attention for language models, from the command line.
#include <CLI/CLI.hpp>

#include <algorithm>
#include <csignal>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <modelopt/util/version.h>

#include "commands.h"
#include "exit_code.h"
#include "output.h"

namespace modelopt::cli {
namespace {

// CLI11 would only say that a subcommand is required.
void check_command_name(const std::vector<Command>& commands, int argc, char** argv) {
  if (argc < 2 || std::string_view(argv[1]).substr(0, 1) == "-") return;
  std::string names;
  for (const auto& command : commands) {
    if (command.parser->get_name() == argv[1]) return;
    names += (names.empty() ? "" : ", ") + command.parser->get_name();
  }
  throw UsageError(str("there is no command ", argv[1], ", expected one of ", names));
}

void parse(CLI::App& program, int argc, char** argv) {
  try {
    program.parse(argc, argv);
  } catch (const CLI::Success& help) {
    std::ostringstream text;
    std::ostringstream unused;
    program.exit(help, text, unused);
    write_stdout(text.str());
    throw;
  } catch (const CLI::ParseError& error) {
    throw UsageError(error.what());
  }
}

void run(int argc, char** argv) {
  CLI::App program("Sparse attention for language models", "modelopt");
  program.set_version_flag("--version", std::string(version()));
  program.require_subcommand(1);
  const std::vector<Command> commands = {
      add_presets(program), add_validate(program),  add_inspect(program), add_sparsify(program), add_generate(program),
      add_eval(program),    add_calibrate(program), add_bench(program),   add_tokenize(program), add_logits(program)};
  check_command_name(commands, argc, argv);
  try {
    parse(program, argc, argv);
  } catch (const CLI::Success&) {
    return;
  }
  for (const auto& command : commands)
    if (command.parser->parsed()) command.run();
}

}  // namespace
}  // namespace modelopt::cli

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed stdout is an error of the write, see write_stdout
  return modelopt::cli::guarded([&] { modelopt::cli::run(argc, argv); });
}
