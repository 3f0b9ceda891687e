#include <modelopt/checkpoint/hf_rope_config.h>

#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include <modelopt/error.h>

namespace modelopt::checkpoint {
namespace {

using models::RopeConfig;
using models::RopeType;
using nlohmann::ordered_json;

constexpr double kDefaultTheta = 10000.0;  // of all model types

constexpr std::array<std::pair<std::string_view, RopeType>, 5> kRopeTypes{{
    {"default", RopeType::kDefault},
    {"linear", RopeType::kLinear},
    {"dynamic", RopeType::kDynamic},
    {"llama3", RopeType::kLlama3},
    {"yarn", RopeType::kYarn},
}};

// Older files say `type`; transformers 4 wrote both.
RopeType read_type(JsonObject& parameters) {
  const auto newer = parameters.optional_string("rope_type"), older = parameters.optional_string("type");
  if (newer && older && *newer != *older) parameters.fail("type", str('"', *newer, "\", as rope_type says"));
  const std::string name = newer ? *newer : older.value_or("default");
  for (const auto& [known, type] : kRopeTypes)
    if (known == name) return type;
  parameters.fail(newer ? "rope_type" : "type", "default, linear, dynamic, llama3 or yarn");
}

// The base is said at the root (transformers 4), inside (transformers 5), or, in converted files, in both.
double read_theta(JsonObject& root, JsonObject* parameters) {
  const auto outer = root.optional_number("rope_theta", NumberRange::kPositive);
  const auto inner =
      parameters == nullptr ? std::nullopt : parameters->optional_number("rope_theta", NumberRange::kPositive);
  if (outer && inner && *outer != *inner)
    root.fail("rope_theta", str(*inner, ", as ", parameters->path_of("rope_theta"), " says"));
  return inner ? *inner : outer.value_or(kDefaultTheta);
}

void read_llama3(JsonObject& parameters, RopeConfig& rope) {
  rope.original_max_position_embeddings = parameters.integer("original_max_position_embeddings", {.least = 1});
  rope.low_freq_factor = parameters.number("low_freq_factor", NumberRange::kPositive);
  rope.high_freq_factor = parameters.number("high_freq_factor", NumberRange::kPositive);
  if (rope.high_freq_factor <= rope.low_freq_factor)
    parameters.fail("high_freq_factor", str("more than low_freq_factor, ", rope.low_freq_factor));
}

void read_yarn(JsonObject& parameters, std::int64_t max_position_embeddings, RopeConfig& rope) {
  rope.original_max_position_embeddings =
      parameters.optional_integer("original_max_position_embeddings", {.least = 1}).value_or(max_position_embeddings);
  rope.beta_fast = parameters.optional_number("beta_fast", NumberRange::kPositive).value_or(rope.beta_fast);
  rope.beta_slow = parameters.optional_number("beta_slow", NumberRange::kPositive).value_or(rope.beta_slow);
  MODELOPT_CHECK(rope.beta_fast >= rope.beta_slow, DataError, parameters.origin(), ": ",
                 parameters.path_of("beta_fast"), ": ", rope.beta_fast, ", expected at least beta_slow, ",
                 rope.beta_slow);
  rope.attention_factor = parameters.optional_number("attention_factor", NumberRange::kPositive);
  rope.mscale = parameters.optional_number("mscale", NumberRange::kPositive);
  rope.mscale_all_dim = parameters.optional_number("mscale_all_dim", NumberRange::kPositive);
  rope.truncate = parameters.boolean("truncate", rope.truncate);
  MODELOPT_CHECK(rope.theta > 1, DataError, parameters.origin(), ": ", parameters.path_of("rope_theta"), ": ",
                 rope.theta, ", expected a number > 1 for yarn");
}

RopeConfig read_parameters(JsonObject& parameters, double theta, std::int64_t max_position_embeddings,
                           std::int64_t head_dim) {
  for (const auto& [key, value] : parameters.value().items())
    if (value.is_object()) parameters.fail(key, "one rope for all layers (a rope per layer type is not supported)");
  RopeConfig rope;
  rope.theta = theta;
  rope.type = read_type(parameters);
  parameters.expect_neutral("partial_rotary_factor", 1.0);
  if (rope.type != RopeType::kDefault) rope.factor = parameters.number("factor", NumberRange::kAtLeastOne);
  switch (rope.type) {
    case RopeType::kDefault:
    case RopeType::kLinear: break;
    case RopeType::kDynamic:
      // transformers scales by max_position_embeddings and does not look at this key.
      parameters.expect_neutral("original_max_position_embeddings", max_position_embeddings);
      rope.original_max_position_embeddings = max_position_embeddings;
      MODELOPT_CHECK(head_dim > 2, DataError, parameters.origin(), ": $.head_dim: ", head_dim,
                     ", expected more than 2 for dynamic rope");
      break;
    case RopeType::kLlama3: read_llama3(parameters, rope); break;
    case RopeType::kYarn: read_yarn(parameters, max_position_embeddings, rope); break;
  }
  parameters.expect_no_other_keys();
  return rope;
}

}  // namespace

RopeConfig read_rope_config(JsonObject& root, std::int64_t max_position_embeddings, std::int64_t head_dim) {
  auto parameters = root.optional_object("rope_parameters");
  auto scaling = root.optional_object("rope_scaling");
  if (parameters && scaling) root.fail("rope_scaling", "null beside rope_parameters, which replaces it");
  root.expect_neutral("partial_rotary_factor", 1.0);
  root.expect_neutral("rope_interleaved", false);
  if (scaling) parameters = std::move(scaling);
  const double theta = read_theta(root, parameters ? &*parameters : nullptr);
  if (parameters) return read_parameters(*parameters, theta, max_position_embeddings, head_dim);
  RopeConfig rope;
  rope.theta = theta;
  return rope;
}

}  // namespace modelopt::checkpoint
