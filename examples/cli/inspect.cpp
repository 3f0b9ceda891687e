// modelopt inspect --model DIR
#include <c10/core/ScalarType.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <modelopt/checkpoint/checkpoint.h>
#include <modelopt/config/sparse_config.h>
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

std::string range(double least, double most) { return significant(least, 3) + " – " + significant(most, 3); }

void add_phase(TextTable& table, const char* name, const std::optional<config::PhaseCalibration>& phase,
               const std::optional<double>& target) {
  if (!phase) return;
  const auto* exponential = phase->exponential ? &*phase->exponential : nullptr;
  const auto* fit = exponential != nullptr && exponential->fit ? &*exponential->fit : nullptr;
  table.add_row({name, std::string(to_string(phase->form)), target ? significant(*target, 3) : "-",
                 exponential != nullptr ? significant(exponential->a, 4) : "-",
                 exponential != nullptr ? significant(exponential->b, 4) : "-",
                 fit != nullptr ? std::to_string(fit->length) : "-", fit != nullptr ? fixed(fit->r_squared, 3) : "-",
                 fit != nullptr ? range(fit->min_sparsity, fit->max_sparsity) : "-",
                 fit != nullptr ? str(fit->min_length, " – ", fit->max_length) : "-"});
}

// Each calibration that modules have, once: how λ follows from the target, and what it was fitted on.
std::string calibration_tables(const SparsifyReport& report) {
  std::string text;
  std::vector<const config::SkipSoftmaxConfig*> shown;
  for (const auto& module : report.modules) {
    const auto* method = module.is_sparse() ? config::skip_softmax_parameters(*module.config) : nullptr;
    const auto* calibration =
        method != nullptr ? std::get_if<config::ThresholdCalibration>(&method->threshold) : nullptr;
    if (calibration == nullptr || std::any_of(shown.begin(), shown.end(), [&](const auto* other) {
          return other->threshold == method->threshold && other->target_sparsity == method->target_sparsity;
        }))
      continue;
    shown.push_back(method);
    TextTable table({{"phase"},
                     {"form"},
                     {"target", Align::kRight},
                     {"a", Align::kRight},
                     {"b", Align::kRight},
                     {"fitted for", Align::kRight},
                     {"R²", Align::kRight},
                     {"shares", Align::kRight},
                     {"tokens", Align::kRight}});
    add_phase(table, "prefill", calibration->prefill, method->target_sparsity.prefill);
    add_phase(table, "decode", calibration->decode, method->target_sparsity.decode);
    text += str("\ncalibration of ", module.name, " and modules like it", "\n", table.render());
    if (const auto& data = calibration->provenance)
      text += str("data ", data->data_hash.substr(0, 12), ", seed ", data->seed, ", ", data->samples, " samples\n");
  }
  return text;
}

bool has_uncalibrated(const SparsifyReport& report) {
  return std::any_of(report.modules.begin(), report.modules.end(), [](const ModuleReport& module) {
    const auto* method = module.is_sparse() ? config::skip_softmax_parameters(*module.config) : nullptr;
    return method != nullptr && !std::holds_alternative<config::ThresholdCalibration>(method->threshold);
  });
}

void run(const Options& options) {
  const Output output(options.json);
  const auto named = named_configs(options.config, options.common);
  ModelSession session = load_session(options.model, options.common);
  auto configs = effective_configs(session, named, options.config, options.common);
  // What would match is known before `modelopt calibrate` has run.
  const bool orders_calibration = !configs.empty() && std::exchange(configs.front().config.calibration, {}).has_value();
  session.slots.allow_unmatched = true;  // what matches nothing is shown here, not refused
  const SparsifyReport report = apply_configs(session, configs);

  Json data = describe(session);
  TextTable facts({{"property"}, {"value"}});
  for (const auto& [key, value] : data.items())
    facts.add_row({key, value.is_string() ? value.get<std::string>() : value.is_null() ? "none" : value.dump()});
  output.print(facts.render() + "\n");
  output.print(configs.empty() ? "attention modules\n" : str("attention modules under ", configs.front().name, "\n"));
  output.print(to_table(report));
  output.print(calibration_tables(report));
  if (orders_calibration && has_uncalibrated(report))
    output.print("the thresholds await `modelopt calibrate`; those shown are what the rules have without it\n");
  for (const auto& pattern : report.unmatched_patterns)
    output.print(str("the pattern ", pattern, " matches no attention module\n"));

  data["config"] = configs.empty() ? Json(nullptr) : Json(configs.front().name);
  data["summary"] = summary(report);
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
