#include <modelopt/checkpoint/hf_config.h>

#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include <modelopt/checkpoint/hf_rope_config.h>
#include <modelopt/checkpoint/json_object.h>
#include <modelopt/checkpoint/model_directory.h>
#include <modelopt/error.h>
#include <modelopt/util/file.h>
#include <modelopt/util/ordered_json.h>

namespace modelopt::checkpoint {
namespace {

using models::ModelConfig;
using models::ModelType;
using nlohmann::ordered_json;

constexpr std::int64_t kMaxSize = std::int64_t{1}
                                  << 28;  // products of two sizes and an element's bytes stay within 63 bits
constexpr std::int64_t kMaxLayers = 10'000;
constexpr IntegerRange kSize{.least = 1, .most = kMaxSize};

// What transformers takes where config.json leaves a key out (the configuration classes of its version 5; version 4
// agrees).
struct TypeDefaults {
  std::string_view model_type;
  std::string_view architecture;
  ModelType type;
  std::int64_t vocab_size;
  std::int64_t intermediate_size;
  std::optional<std::int64_t> num_key_value_heads;  // absent: as many as there are query heads
  std::optional<std::int64_t> head_dim;             // absent: hidden_size / num_attention_heads
  std::int64_t max_position_embeddings;
  std::optional<std::int64_t> bos_token_id;
  std::optional<std::int64_t> eos_token_id;
};

constexpr std::int64_t kDefaultHiddenSize = 4096;
constexpr std::int64_t kDefaultNumHiddenLayers = 32;
constexpr std::int64_t kDefaultNumAttentionHeads = 32;
constexpr double kDefaultRmsNormEps = 1e-6;
constexpr std::int64_t kDefaultSlidingWindow = 4096;
constexpr std::int64_t kDefaultMaxWindowLayers = 28;

constexpr std::array<TypeDefaults, 4> kTypes{{
    {"llama", "LlamaForCausalLM", ModelType::kLlama, 32000, 11008, std::nullopt, std::nullopt, 2048, 1, 2},
    {"mistral", "MistralForCausalLM", ModelType::kMistral, 32000, 14336, 8, std::nullopt, 131072, 1, 2},
    {"qwen2", "Qwen2ForCausalLM", ModelType::kQwen2, 151936, 22016, 32, std::nullopt, 32768, std::nullopt,
     std::nullopt},
    {"qwen3", "Qwen3ForCausalLM", ModelType::kQwen3, 151936, 22016, 32, 128, 32768, std::nullopt, std::nullopt},
}};

const TypeDefaults& read_model_type(JsonObject& root) {
  const std::string model_type = root.string("model_type");
  for (const TypeDefaults& defaults : kTypes) {
    if (defaults.model_type != model_type) continue;
    const auto architectures = root.optional_strings("architectures");
    if (architectures && *architectures != std::vector{std::string(defaults.architecture)})
      root.fail("architectures", str("[\"", defaults.architecture, "\"] for model_type ", model_type));
    return defaults;
  }
  root.fail("model_type", "llama, mistral, qwen2 or qwen3");
}

// An absent key takes the type's default, null asks for the derived value; the two differ for mistral and qwen.
void read_heads(JsonObject& root, const TypeDefaults& defaults, ModelConfig& config) {
  config.num_attention_heads = root.integer("num_attention_heads", kDefaultNumAttentionHeads, kSize);
  const auto kv_heads = root.optional_integer("num_key_value_heads", kSize);
  const bool kv_heads_absent = !root.contains("num_key_value_heads");
  config.num_key_value_heads = kv_heads          ? *kv_heads
                               : kv_heads_absent ? defaults.num_key_value_heads.value_or(config.num_attention_heads)
                                                 : config.num_attention_heads;
  MODELOPT_CHECK(config.num_attention_heads % config.num_key_value_heads == 0, DataError, root.origin(),
                 ": $.num_attention_heads: ", config.num_attention_heads,
                 ", expected a multiple of num_key_value_heads, ", config.num_key_value_heads);
  if (defaults.head_dim) {
    config.head_dim = root.integer("head_dim", *defaults.head_dim, kSize);
  } else if (const auto head_dim = root.optional_integer("head_dim", kSize)) {
    config.head_dim = *head_dim;
  } else {
    MODELOPT_CHECK(config.hidden_size % config.num_attention_heads == 0, DataError, root.origin(),
                   ": $.hidden_size: ", config.hidden_size, ", expected a multiple of num_attention_heads, ",
                   config.num_attention_heads, ", as there is no head_dim");
    config.head_dim = config.hidden_size / config.num_attention_heads;
  }
  MODELOPT_CHECK(config.head_dim % 2 == 0, DataError, root.origin(), ": $.head_dim: ", config.head_dim,
                 ", expected an even number, as rotary embeddings need");
  MODELOPT_CHECK(config.head_dim <= kMaxSize / config.num_attention_heads, DataError, root.origin(),
                 ": $.head_dim: ", config.head_dim, " in ", config.num_attention_heads,
                 " heads, expected a product of at most ", kMaxSize);
}

void read_biases(JsonObject& root, ModelConfig& config) {
  const bool has_attention_bias_key = config.type == ModelType::kLlama || config.type == ModelType::kQwen3;
  if (has_attention_bias_key) {
    config.attention_qkv_bias = config.attention_out_bias = root.boolean("attention_bias", false);
  } else {
    root.expect_neutral("attention_bias", config.type == ModelType::kQwen2);
    config.attention_qkv_bias = config.type == ModelType::kQwen2;
  }
  if (config.type == ModelType::kLlama)
    config.mlp_bias = root.boolean("mlp_bias", false);
  else
    root.expect_neutral("mlp_bias", false);
}

// What holds before a look at `layer_types`. A window of 0: no layer can slide.
struct SlidingRule {
  std::int64_t window = 0;
  std::int64_t first_sliding_layer = 0;
};

SlidingRule read_sliding_rule(JsonObject& root, ModelType type) {
  const auto window = root.optional_integer("sliding_window", kSize);
  const std::int64_t resolved = window ? *window : root.contains("sliding_window") ? 0 : kDefaultSlidingWindow;
  switch (type) {
    case ModelType::kLlama:
      if (window) root.fail("sliding_window", "null for model_type llama");
      return {};
    case ModelType::kMistral: return {.window = resolved};
    case ModelType::kQwen2:
    case ModelType::kQwen3: {
      const bool use = root.boolean("use_sliding_window", false);
      const std::int64_t first = root.integer("max_window_layers", kDefaultMaxWindowLayers, {});
      return {.window = use ? resolved : 0, .first_sliding_layer = first};
    }
  }
  return {};
}

void read_sliding_windows(JsonObject& root, ModelConfig& config) {
  const SlidingRule rule = read_sliding_rule(root, config.type);
  config.sliding_window.assign(static_cast<std::size_t>(config.num_hidden_layers), 0);
  for (std::int64_t layer = rule.first_sliding_layer; layer < config.num_hidden_layers; ++layer)
    config.sliding_window[static_cast<std::size_t>(layer)] = rule.window;

  const auto layer_types = root.optional_strings("layer_types");
  if (!layer_types) return;
  if (layer_types->size() != config.sliding_window.size())
    root.fail("layer_types", str("num_hidden_layers entries, ", config.num_hidden_layers));
  // llama and mistral have no layer types in transformers, which ignores the key: it may only say what holds anyway.
  const bool chooses = config.type == ModelType::kQwen2 || config.type == ModelType::kQwen3;
  for (std::size_t layer = 0; layer < layer_types->size(); ++layer) {
    const std::string& type = (*layer_types)[layer];
    const bool slides = type == "sliding_attention";
    if (!slides && type != "full_attention")
      root.fail("layer_types", "full_attention or sliding_attention in each entry");
    if (slides && rule.window == 0) root.fail("layer_types", "full_attention alone, as there is no sliding window");
    if (!slides && !chooses && rule.window > 0)
      root.fail("layer_types", "sliding_attention alone, as sliding_window holds for all layers");
    config.sliding_window[layer] = slides ? rule.window : 0;
  }
}

at::ScalarType read_dtype(JsonObject& root) {
  const auto newer = root.optional_string("dtype"), older = root.optional_string("torch_dtype");
  if (newer && older && *newer != *older) root.fail("torch_dtype", str('"', *newer, "\", as dtype says"));
  const std::string name = newer ? *newer : older.value_or("float32");
  if (name == "float32") return at::kFloat;
  if (name == "float16") return at::kHalf;
  if (name == "bfloat16") return at::kBFloat16;
  root.fail(newer ? "dtype" : "torch_dtype", "float32, float16 or bfloat16");
}

void read_token_ids(JsonObject& root, const TypeDefaults& defaults, ModelConfig& config) {
  const IntegerRange ids{.least = 0, .most = config.vocab_size - 1};
  config.bos_token_id =
      root.contains("bos_token_id") ? root.optional_integer("bos_token_id", ids) : defaults.bos_token_id;
  config.pad_token_id = root.optional_integer("pad_token_id", {});
  if (root.contains("eos_token_id"))
    config.eos_token_ids = root.optional_integers("eos_token_id", ids).value_or(std::vector<std::int64_t>{});
  else if (defaults.eos_token_id)
    config.eos_token_ids = {*defaults.eos_token_id};
}

// Keys that change what the model computes, in values that leave it as it is.
void expect_neutral_settings(JsonObject& root) {
  root.expect_neutral("hidden_act", "silu");
  root.expect_neutral("pretraining_tp", 1);
  root.expect_neutral("is_encoder_decoder", false);
  root.expect_neutral("add_cross_attention", false);
  root.expect_neutral("tie_encoder_decoder", false);
  root.expect_neutral("cross_attention_hidden_size", nullptr);
  root.expect_neutral("pruned_heads", ordered_json::object());
  root.expect_neutral("quantization_config", nullptr);
  root.expect_neutral("auto_map", nullptr);
  root.expect_neutral("use_mrope", false);
}

// Training, bookkeeping, outputs and tokenizer hints; `sparse_attention_config` is read where sparsity is applied.
void ignore_irrelevant_keys(JsonObject& root) {
  root.ignore({"_attn_implementation",
               "_attn_implementation_autoset",
               "_commit_hash",
               "_name_or_path",
               "attention_dropout",
               "attn_implementation",
               "chunk_size_feed_forward",
               "decoder_start_token_id",
               "finetuning_task",
               "id2label",
               "initializer_range",
               "is_decoder",
               "is_llama_config",
               "label2id",
               "name_or_path",
               "num_labels",
               "output_attentions",
               "output_hidden_states",
               "prefix",
               "problem_type",
               "return_dict",
               "sep_token_id",
               "sparse_attention_config",
               "task_specific_params",
               "tokenizer_class",
               "torchscript",
               "transformers.js_config",
               "transformers_version",
               "unsloth_fixed",
               "unsloth_version",
               "use_cache"});
}

}  // namespace

ModelConfig read_model_config(const std::filesystem::path& directory) {
  constexpr std::string_view kFileName = "config.json";
  return parse_model_config(read_file(model_file(directory, kFileName)), (directory / kFileName).string());
}

ModelConfig parse_model_config(std::string_view text, std::string_view origin) {
  const ordered_json json = parse_ordered_json(text, origin);
  JsonObject root(json, std::string(origin));
  const TypeDefaults& defaults = read_model_type(root);

  ModelConfig config;
  config.type = defaults.type;
  config.vocab_size = root.integer("vocab_size", defaults.vocab_size, kSize);
  config.hidden_size = root.integer("hidden_size", kDefaultHiddenSize, kSize);
  config.intermediate_size = root.integer("intermediate_size", defaults.intermediate_size, kSize);
  config.num_hidden_layers =
      root.integer("num_hidden_layers", kDefaultNumHiddenLayers, {.least = 1, .most = kMaxLayers});
  config.max_position_embeddings = root.integer("max_position_embeddings", defaults.max_position_embeddings, kSize);
  config.rms_norm_eps = root.number("rms_norm_eps", kDefaultRmsNormEps, NumberRange::kPositive);
  config.tie_word_embeddings = root.boolean("tie_word_embeddings", false);
  config.qk_norm = config.type == ModelType::kQwen3;
  read_heads(root, defaults, config);
  read_biases(root, config);
  read_sliding_windows(root, config);
  read_token_ids(root, defaults, config);
  config.rope = read_rope_config(root, config.max_position_embeddings, config.head_dim);
  config.dtype = read_dtype(root);
  expect_neutral_settings(root);
  ignore_irrelevant_keys(root);
  root.expect_no_other_keys();
  return config;
}

}  // namespace modelopt::checkpoint
