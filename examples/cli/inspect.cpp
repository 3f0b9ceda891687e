// modelopt inspect --model DIR
#include <c10/core/ScalarType.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include <modelopt/checkpoint/checkpoint.h>
#include <modelopt/util/log.h>

#include "commands.h"
#include "model_session.h"
#include "output.h"
#include "text_table.h"

namespace modelopt::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  CommonOptions common;
  ConfigOptions config;
  std::string model;
  std::string json;
};

std::string model_type(models::ModelType type) {
  switch (type) {
    case models::ModelType::kLlama:
      return "llama";
    case models::ModelType::kMistral:
      return "mistral";
    case models::ModelType::kQwen2:
      return "qwen2";
    case models::ModelType::kQwen3:
      return "qwen3";
  }
  throw Error("a model type without a name");
}

std::string rope_type(models::RopeType type) {
  switch (type) {
    case models::RopeType::kDefault:
      return "default";
    case models::RopeType::kLinear:
      return "linear";
    case models::RopeType::kDynamic:
      return "dynamic";
    case models::RopeType::kLlama3:
      return "llama3";
    case models::RopeType::kYarn:
      return "yarn";
  }
  throw Error("a RoPE type without a name");
}

std::string dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return "float32";
    case at::kBFloat16:
      return "bfloat16";
    case at::kHalf:
      return "float16";
    default:
      return c10::toString(dtype);
  }
}

Json describe(const ModelSession& session) {
  const models::ModelConfig& config = session.model->config();
  std::int64_t parameters = 0;
  for (const auto& parameter : session.model->parameters()) parameters += parameter.numel();
  const bool sliding =
      std::any_of(config.sliding_window.begin(), config.sliding_window.end(), [](std::int64_t w) { return w > 0; });
  return {{"directory", session.directory.string()},
          {"model_type", model_type(config.type)},
          {"dtype", dtype_name(session.model->dtype())},
          {"parameters", parameters},
          {"checkpoint_bytes", checkpoint::Checkpoint(session.directory).total_bytes()},
          {"num_hidden_layers", config.num_hidden_layers},
          {"hidden_size", config.hidden_size},
          {"intermediate_size", config.intermediate_size},
          {"num_attention_heads", config.num_attention_heads},
          {"num_key_value_heads", config.num_key_value_heads},
          {"head_dim", config.head_dim},
          {"vocab_size", config.vocab_size},
          {"max_position_embeddings", config.max_position_embeddings},
          {"rope_type", rope_type(config.rope.type)},
          {"rope_theta", config.rope.theta},
          {"tie_word_embeddings", config.tie_word_embeddings},
          {"sliding_window", sliding ? Json(config.sliding_window) : Json(nullptr)},
          {"tokenizer", has_tokenizer(session.directory)}};
}

void run(const Options& options) {
  const Output output(options.json);
  const auto named = named_configs(options.config, options.common);
  ModelSession session = load_session(options.model, options.common);
  const auto configs = effective_configs(session, named, options.config, options.common);
  session.slots.allow_unmatched = true;  // what matches nothing is shown here, not refused
  const SparsifyReport report = apply_configs(session, configs);

  Json data = describe(session);
  TextTable facts({{"property"}, {"value"}});
  for (const auto& [key, value] : data.items())
    facts.add_row({key, value.is_string() ? value.get<std::string>() : value.is_null() ? "none" : value.dump()});
  output.print(facts.render() + "\n");
  output.print(configs.empty() ? "attention modules\n" : str("attention modules under ", configs.front().name, "\n"));
  output.print(to_table(report));
  for (const auto& pattern : report.unmatched_patterns)
    output.print(str("the pattern ", pattern, " matches no attention module\n"));

  data["config"] = configs.empty() ? Json(nullptr) : Json(configs.front().name);
  data.update(to_json(report));
  output.finish(data);
}

}  // namespace

Command add_inspect(CLI::App& program) {
  const auto options = std::make_shared<Options>();
  CLI::App* parser = program.add_subcommand(
      "inspect", "Show a model's architecture and attention modules, and what a configuration would match");
  add_model_option(*parser, options->model);
  add_json_option(*parser, options->json);
  add_config_options(*parser, options->config, ConfigUse::kOne);
  return finish_command(parser, options, &run);
}

}  // namespace modelopt::cli
