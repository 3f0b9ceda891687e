// modelopt presets [NAME]
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include <modelopt/config/parse.h>
#include <modelopt/config/presets.h>

#include "commands.h"
#include "common_options.h"
#include "exit_code.h"
#include "output.h"
#include "text_layout.h"

namespace modelopt::cli {
namespace {

struct Options {
  CommonOptions common;
  std::string name;
  std::string json;
};

void show(const Options& options) {
  const Output output(options.json);
  const presets::Preset* preset = presets::find(options.name);
  MODELOPT_CHECK(preset != nullptr, UsageError, "there is no preset ", options.name, ", expected one of ",
                 presets::names());
  output.print(std::string(preset->json) + (preset->json.ends_with('\n') ? "" : "\n"));
  output.finish(nlohmann::ordered_json::parse(preset->json));
}

void list(const Options& options) {
  const Output output(options.json);
  std::string text;
  nlohmann::ordered_json data = nlohmann::ordered_json::array();
  for (const auto& preset : presets::all()) {
    const config::SparseAttentionConfig config = preset;
    text += std::string(preset.name) + "\n";
    for (const auto& line : wrap(config.description, 96)) text += "    " + line + "\n";
    data.push_back({{"name", preset.name}, {"description", config.description}, {"config", config::to_json(config)}});
  }
  output.print(text);
  output.finish({{"presets", std::move(data)}});
}

void run(const Options& options) { options.name.empty() ? list(options) : show(options); }

}  // namespace

Command add_presets(CLI::App& program) {
  const auto options = std::make_shared<Options>();
  CLI::App* parser = program.add_subcommand("presets", "List the presets, or print one as JSON");
  parser->add_option("name", options->name, "a preset")->type_name("NAME");
  add_json_option(*parser, options->json);
  return finish_command(parser, options, &run);
}

}  // namespace modelopt::cli
