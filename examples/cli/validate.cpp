// modelopt validate FILE…
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include <modelopt/config/parse.h>

#include "commands.h"
#include "common_options.h"
#include "output.h"

namespace modelopt::cli {
namespace {

struct Options {
  CommonOptions common;
  std::vector<std::string> files;
  std::string json;
};

// A message has one problem per line.
std::vector<std::string> lines(const std::string& message) {
  std::istringstream in(message);
  std::vector<std::string> result;
  for (std::string line; std::getline(in, line);) result.push_back(line);
  return result;
}

// All files are checked before the problems of all are reported together.
void run(const Options& options) {
  const Output output(options.json);
  nlohmann::ordered_json data = nlohmann::ordered_json::array();
  std::string problems;
  for (const auto& file : options.files) {
    try {
      const auto config = config::load_config_file(file);
      output.print(file + ": valid\n");
      data.push_back({{"file", file}, {"valid", true}, {"config", config::to_json(config)}});
    } catch (const ConfigError& error) {
      problems += (problems.empty() ? "" : "\n") + std::string(error.what());
      data.push_back({{"file", file}, {"valid", false}, {"problems", lines(error.what())}});
    }
  }
  output.finish({{"files", std::move(data)}});
  MODELOPT_CHECK(problems.empty(), ConfigError, problems);
}

}  // namespace

Command add_validate(CLI::App& program) {
  const auto options = std::make_shared<Options>();
  CLI::App* parser = program.add_subcommand("validate", "Check configuration files");
  parser->add_option("files", options->files, "configuration files")->type_name("FILE")->required();
  add_json_option(*parser, options->json);
  return finish_command(parser, options, &run);
}

}  // namespace modelopt::cli
