#include <modelopt/checkpoint/hf_config.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <nlohmann/json.hpp>

#include <modelopt/util/file.h>

#include "modelopt/checkpoint/test_files.h"

namespace modelopt::checkpoint {
namespace {

using models::ModelConfig;
using models::ModelType;
using models::RopeConfig;
using models::RopeType;
using nlohmann::json;
using test::data_error;
using Windows = std::vector<std::int64_t>;

// A small config of the type, to which tests add keys.
json small_config(const std::string& model_type) {
  return {{"model_type", model_type}, {"vocab_size", 320},      {"hidden_size", 64},
          {"intermediate_size", 128}, {"num_hidden_layers", 4}, {"num_attention_heads", 4},
          {"num_key_value_heads", 2}, {"head_dim", 16}};
}

ModelConfig parse(const json& config) { return parse_model_config(config.dump(), "config.json"); }

// Adds or replaces keys at the root.
json with(json config, const json& keys) {
  config.update(keys);
  return config;
}

std::string error_of(const json& config) {
  return data_error({}, [&] { static_cast<void>(parse(config)); });
}

TEST_CASE("both styles of each tiny model give the same config") {
  const std::string name = GENERATE("llama", "llama_bf16", "llama_llama3rope", "llama_sharded", "llama_tied_mqa",
                                    "mistral", "mistral_sliding", "qwen2", "qwen3");
  const std::filesystem::path directory = std::filesystem::path(MODELOPT_TEST_DATA) / "models" / name;
  const ModelConfig newer = read_model_config(directory);
  const ModelConfig older = parse_model_config(read_file(directory / "config_v4.json"), "config_v4.json");
  CHECK(newer == older);
}

TEST_CASE("the values of tiny models are the file's") {
  const std::filesystem::path models = std::filesystem::path(MODELOPT_TEST_DATA) / "models";
  const ModelConfig llama3 = read_model_config(models / "llama_llama3rope");
  RopeConfig rope;
  rope.type = RopeType::kLlama3;
  rope.theta = 500000;
  rope.factor = 8;
  rope.original_max_position_embeddings = 512;
  rope.low_freq_factor = 1;
  rope.high_freq_factor = 4;
  CHECK(llama3.rope == rope);

  ModelConfig tied;
  tied.type = ModelType::kLlama;
  tied.vocab_size = 320;
  tied.hidden_size = 64;
  tied.intermediate_size = 128;
  tied.num_hidden_layers = 3;
  tied.num_attention_heads = 4;
  tied.num_key_value_heads = 1;
  tied.head_dim = 16;
  tied.max_position_embeddings = 512;
  tied.rms_norm_eps = 1e-5;
  tied.rope.theta = 100000;
  tied.tie_word_embeddings = true;
  tied.sliding_window = {0, 0, 0};
  tied.eos_token_ids = {2};
  tied.bos_token_id = 1;
  tied.pad_token_id = 0;
  CHECK(read_model_config(models / "llama_tied_mqa") == tied);

  CHECK(read_model_config(models / "mistral_sliding").sliding_window == Windows{8, 8});
  CHECK(read_model_config(models / "mistral").head_dim == 32);
  CHECK(read_model_config(models / "llama_bf16").dtype == at::kBFloat16);
  const ModelConfig qwen2 = read_model_config(models / "qwen2"), qwen3 = read_model_config(models / "qwen3");
  CHECK((qwen2.attention_qkv_bias && !qwen2.attention_out_bias && !qwen2.qk_norm));
  CHECK((!qwen3.attention_qkv_bias && !qwen3.attention_out_bias && qwen3.qk_norm));
}

TEST_CASE("what a file leaves out takes the default of its type") {
  const auto [type, vocab, intermediate, kv_heads, head_dim, context, eos] =
      GENERATE(table<std::string, int, int, int, int, int, std::vector<std::int64_t>>(
          {{"llama", 32000, 11008, 32, 128, 2048, {2}},
           {"mistral", 32000, 14336, 8, 128, 131072, {2}},
           {"qwen2", 151936, 22016, 32, 128, 32768, {}},
           {"qwen3", 151936, 22016, 32, 128, 32768, {}}}));
  const ModelConfig config = parse({{"model_type", type}});
  CHECK(config.vocab_size == vocab);
  CHECK(config.hidden_size == 4096);
  CHECK(config.intermediate_size == intermediate);
  CHECK(config.num_hidden_layers == 32);
  CHECK(config.num_attention_heads == 32);
  CHECK(config.num_key_value_heads == kv_heads);
  CHECK(config.head_dim == head_dim);
  CHECK(config.max_position_embeddings == context);
  CHECK(config.rms_norm_eps == 1e-6);
  CHECK(config.rope == RopeConfig{});
  CHECK(config.dtype == at::kFloat);
  CHECK(config.eos_token_ids == eos);
  CHECK(config.bos_token_id.has_value() == !eos.empty());
  CHECK(config.sliding_window == Windows(32, type == "mistral" ? 4096 : 0));
  CHECK_FALSE(config.tie_word_embeddings);
}

TEST_CASE("null is not absence where transformers tells them apart") {
  CHECK(parse(with(small_config("mistral"), {{"num_key_value_heads", nullptr}})).num_key_value_heads == 4);
  CHECK(parse(with(small_config("mistral"), {{"sliding_window", nullptr}})).sliding_window == Windows{0, 0, 0, 0});
  CHECK(parse(with(small_config("llama"), {{"eos_token_id", nullptr}})).eos_token_ids.empty());
  CHECK_FALSE(parse(with(small_config("llama"), {{"bos_token_id", nullptr}})).bos_token_id.has_value());
  CHECK(parse(with(small_config("llama"), {{"head_dim", nullptr}, {"hidden_size", 128}})).head_dim == 32);
  CHECK(error_of(with(small_config("qwen3"), {{"head_dim", nullptr}})) ==
        "config.json: $.head_dim: null, expected an integer from 1 to 268435456");
  CHECK(error_of(with(small_config("llama"), {{"rms_norm_eps", nullptr}})) ==
        "config.json: $.rms_norm_eps: null, expected a number > 0");
}

TEST_CASE("biases follow the type") {
  CHECK(parse(with(small_config("llama"), {{"attention_bias", true}, {"mlp_bias", true}})).attention_out_bias);
  CHECK(parse(with(small_config("llama"), {{"mlp_bias", true}})).mlp_bias);
  CHECK(parse(with(small_config("qwen3"), {{"attention_bias", true}})).attention_qkv_bias);
  CHECK(error_of(with(small_config("mistral"), {{"attention_bias", true}})) ==
        "config.json: $.attention_bias: true, expected false: nothing else is supported");
  CHECK(error_of(with(small_config("qwen2"), {{"attention_bias", false}})) ==
        "config.json: $.attention_bias: false, expected true: nothing else is supported");
  CHECK(error_of(with(small_config("qwen2"), {{"mlp_bias", true}})) ==
        "config.json: $.mlp_bias: true, expected false: nothing else is supported");
}

TEST_CASE("end-of-sequence ids come as none, one or several") {
  CHECK(parse(with(small_config("llama"), {{"eos_token_id", 7}})).eos_token_ids == std::vector<std::int64_t>{7});
  CHECK(parse(with(small_config("llama"), {{"eos_token_id", {7, 9}}})).eos_token_ids ==
        std::vector<std::int64_t>{7, 9});
  CHECK(error_of(with(small_config("llama"), {{"eos_token_id", {7, 320}}})) ==
        "config.json: $.eos_token_id: [7,320], expected an integer from 0 to 319, an array of such, or null");
  CHECK(error_of(with(small_config("llama"), {{"bos_token_id", -1}})) ==
        "config.json: $.bos_token_id: -1, expected an integer from 0 to 319 or null");
}

TEST_CASE("sliding windows per layer") {
  const json qwen =
      with(small_config("qwen2"), {{"use_sliding_window", true}, {"sliding_window", 100}, {"max_window_layers", 3}});
  CHECK(parse(qwen).sliding_window == Windows{0, 0, 0, 100});
  CHECK(parse(with(qwen, {{"max_window_layers", 0}})).sliding_window == Windows{100, 100, 100, 100});
  CHECK(parse(with(qwen, {{"max_window_layers", 28}})).sliding_window == Windows{0, 0, 0, 0});
  CHECK(parse(with(qwen, {{"use_sliding_window", false}})).sliding_window == Windows{0, 0, 0, 0});
  CHECK(parse(with(qwen, {{"sliding_window", nullptr}})).sliding_window == Windows{0, 0, 0, 0});
  const json types = {"sliding_attention", "full_attention", "sliding_attention", "full_attention"};
  CHECK(parse(with(qwen, {{"layer_types", types}})).sliding_window == Windows{100, 0, 100, 0});

  CHECK(error_of(with(qwen, {{"layer_types", types}, {"use_sliding_window", false}})) ==
        "config.json: $.layer_types: [\"sliding_attention\",\"full_attention\",\"sliding_attention\",\"f…, expected "
        "full_attention "
        "alone, as there is no sliding window");
  CHECK(error_of(with(qwen, {{"layer_types", {"full_attention"}}})) ==
        "config.json: $.layer_types: [\"full_attention\"], expected num_hidden_layers entries, 4");
  CHECK(error_of(with(qwen, {{"layer_types", {"full_attention", "x", "x", "x"}}})) ==
        "config.json: $.layer_types: [\"full_attention\",\"x\",\"x\",\"x\"], expected full_attention or "
        "sliding_attention in each entry");
  CHECK(error_of(with(small_config("mistral"), {{"num_hidden_layers", 1}, {"layer_types", {"full_attention"}}})) ==
        "config.json: $.layer_types: [\"full_attention\"], expected sliding_attention alone, as sliding_window holds "
        "for all layers");
  CHECK(error_of(with(small_config("llama"), {{"sliding_window", 8}})) ==
        "config.json: $.sliding_window: 8, expected null for model_type llama");
  CHECK(error_of(with(small_config("mistral"), {{"sliding_window", 0}})) ==
        "config.json: $.sliding_window: 0, expected an integer from 1 to 268435456 or null");
}

TEST_CASE("rope: types and their parameters, in both styles") {
  const auto rope_of = [](const json& keys) { return parse(with(small_config("llama"), keys)).rope; };
  const json yarn = {{"rope_type", "yarn"}, {"factor", 4},           {"original_max_position_embeddings", 1024},
                     {"beta_fast", 16},     {"beta_slow", 2},        {"attention_factor", nullptr},
                     {"mscale", 0.7},       {"mscale_all_dim", 0.9}, {"truncate", false}};
  RopeConfig expected;
  expected.type = RopeType::kYarn;
  expected.theta = 1e6;
  expected.factor = 4;
  expected.original_max_position_embeddings = 1024;
  expected.beta_fast = 16;
  expected.beta_slow = 2;
  expected.mscale = 0.7;
  expected.mscale_all_dim = 0.9;
  expected.truncate = false;
  CHECK(rope_of({{"rope_theta", 1000000}, {"rope_scaling", yarn}}) == expected);
  CHECK(rope_of({{"rope_parameters", with(yarn, {{"rope_theta", 1e6}})}}) == expected);
  CHECK(rope_of({{"rope_theta", 1e6}, {"rope_parameters", with(yarn, {{"rope_theta", 1e6}})}}) == expected);

  const RopeConfig bare =
      rope_of({{"max_position_embeddings", 999}, {"rope_scaling", {{"type", "yarn"}, {"factor", 2.0}}}});
  CHECK(bare.type == RopeType::kYarn);
  CHECK(bare.original_max_position_embeddings == 999);
  CHECK_FALSE(bare.attention_factor.has_value());

  const RopeConfig dynamic =
      rope_of({{"max_position_embeddings", 999}, {"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}});
  CHECK(dynamic.type == RopeType::kDynamic);
  CHECK(dynamic.factor == 2);
  CHECK(dynamic.original_max_position_embeddings == 999);

  const RopeConfig linear = rope_of({{"rope_scaling", {{"type", "linear"}, {"rope_type", "linear"}, {"factor", 3}}}});
  CHECK(linear.type == RopeType::kLinear);
  CHECK(linear.factor == 3);

  CHECK(rope_of({{"rope_parameters", {{"rope_type", "default"}}}, {"rope_theta", 5}}).theta == 5);
  CHECK(rope_of({{"rope_scaling", nullptr}, {"partial_rotary_factor", 1.0}}) == RopeConfig{});
}

TEST_CASE("rope that is not understood is an error that names the key") {
  struct Case {
    json keys;
    std::string message;
  };
  const auto [keys, message] = GENERATE(values<Case>({
      {{{"rope_scaling", {{"type", "longrope"}, {"factor", 2}}}},
       R"($.rope_scaling.type: "longrope", expected default, linear, dynamic, llama3 or yarn)"},
      {{{"rope_parameters", {{"rope_type", "linear"}}}}, "$.rope_parameters.factor: missing"},
      {{{"rope_parameters", {{"rope_type", "linear"}, {"factor", 0.5}}}},
       "$.rope_parameters.factor: 0.5, expected a number >= 1"},
      {{{"rope_parameters", {{"rope_type", "linear"}, {"factor", "2"}}}},
       "$.rope_parameters.factor: \"2\", expected a number >= 1"},
      {{{"rope_parameters", {{"rope_type", "linear"}, {"factor", 2}, {"beta_fast", 1}}}},
       "$.rope_parameters.beta_fast: 1, but this key is not understood here"},
      {{{"rope_scaling", {{"factor", 2.0}}}}, "$.rope_scaling.factor: 2.0, but this key is not understood here"},
      {{{"rope_scaling", {{"type", "linear"}, {"rope_type", "yarn"}, {"factor", 2}}}},
       R"($.rope_scaling.type: "linear", expected "yarn", as rope_type says)"},
      {{{"rope_scaling", {{"type", "linear"}, {"factor", 2}}}, {"rope_parameters", {{"rope_type", "default"}}}},
       R"($.rope_scaling: {"factor":2,"type":"linear"}, expected null beside rope_parameters, which replaces it)"},
      {{{"rope_theta", 5.0}, {"rope_parameters", {{"rope_theta", 6.0}}}},
       "$.rope_theta: 5.0, expected 6, as $.rope_parameters.rope_theta says"},
      {{{"rope_theta", 0}}, "$.rope_theta: 0, expected a number > 0 or null"},
      {{{"rope_theta", true}}, "$.rope_theta: true, expected a number > 0 or null"},
      {{{"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}},
       R"($.rope_parameters.full_attention: {"rope_type":"default"}, )"
       "expected one rope for all layers (a rope per layer type is not supported)"},
      {{{"rope_parameters", {{"rope_type", "llama3"}, {"factor", 8}}}},
       "$.rope_parameters.original_max_position_embeddings: missing"},
      {{{"rope_scaling",
         {{"rope_type", "llama3"},
          {"factor", 8},
          {"original_max_position_embeddings", 64},
          {"low_freq_factor", 4},
          {"high_freq_factor", 4}}}},
       "$.rope_scaling.high_freq_factor: 4, expected more than low_freq_factor, 4"},
      {{{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 8}, {"beta_fast", 1}, {"beta_slow", 2}}}},
       "$.rope_scaling.beta_fast: 1, expected at least beta_slow, 2"},
      {{{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 8}, {"attn_factor", 1}}}},
       "$.rope_scaling.attn_factor: 1, but this key is not understood here"},
      {{{"rope_theta", 1}, {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 8}}}},
       "$.rope_scaling.rope_theta: 1, expected a number > 1 for yarn"},
      {{{"rope_scaling", {{"type", "dynamic"}, {"factor", 2}, {"original_max_position_embeddings", 64}}}},
       "$.rope_scaling.original_max_position_embeddings: 64, expected 2048: nothing else is supported"},
      {{{"partial_rotary_factor", 0.5}}, "$.partial_rotary_factor: 0.5, expected 1.0: nothing else is supported"},
      {{{"rope_parameters", {{"partial_rotary_factor", 0.25}}}},
       "$.rope_parameters.partial_rotary_factor: 0.25, expected 1.0: nothing else is supported"},
      {{{"rope_interleaved", true}}, "$.rope_interleaved: true, expected false: nothing else is supported"},
      {{{"rope_parameters", 7}}, "$.rope_parameters: 7, expected an object or null"},
  }));
  CHECK(error_of(with(small_config("llama"), keys)) == "config.json: " + message);
}

TEST_CASE("keys that are not understood, wrong types and contradictions are errors") {
  struct Case {
    json keys;
    std::string message;
  };
  const auto [keys, message] = GENERATE(values<Case>({
      {{{"model_type", "gpt2"}}, R"($.model_type: "gpt2", expected llama, mistral, qwen2 or qwen3)"},
      {{{"model_type", 3}}, "$.model_type: 3, expected a string"},
      {{{"architectures", {"LlamaModel"}}},
       R"($.architectures: ["LlamaModel"], expected ["LlamaForCausalLM"] for model_type llama)"},
      {{{"architectures", "LlamaForCausalLM"}},
       R"($.architectures: "LlamaForCausalLM", expected an array of strings or null)"},
      {{{"attention_softcap", 30.0}}, "$.attention_softcap: 30.0, but this key is not understood here"},
      {{{"quantization_config", {{"bits", 4}}}},
       R"($.quantization_config: {"bits":4}, expected null: nothing else is supported)"},
      {{{"auto_map", {{"AutoModel", "x"}}}},
       R"($.auto_map: {"AutoModel":"x"}, expected null: nothing else is supported)"},
      {{{"hidden_act", "gelu"}}, R"($.hidden_act: "gelu", expected "silu": nothing else is supported)"},
      {{{"pretraining_tp", 2}}, "$.pretraining_tp: 2, expected 1: nothing else is supported"},
      {{{"hidden_size", "64"}}, R"($.hidden_size: "64", expected an integer from 1 to 268435456)"},
      {{{"hidden_size", 64.0}}, "$.hidden_size: 64.0, expected an integer from 1 to 268435456"},
      {{{"hidden_size", true}}, "$.hidden_size: true, expected an integer from 1 to 268435456"},
      {{{"hidden_size", 0}}, "$.hidden_size: 0, expected an integer from 1 to 268435456"},
      {{{"vocab_size", 18446744073709551615ULL}},
       "$.vocab_size: 18446744073709551615, expected an integer from 1 to 268435456"},
      {{{"num_hidden_layers", 100000}}, "$.num_hidden_layers: 100000, expected an integer from 1 to 10000"},
      {{{"tie_word_embeddings", 1}}, "$.tie_word_embeddings: 1, expected true or false"},
      {{{"rms_norm_eps", 0}}, "$.rms_norm_eps: 0, expected a number > 0"},
      {{{"rms_norm_eps", "1e-6"}}, R"($.rms_norm_eps: "1e-6", expected a number > 0)"},
      {{{"num_key_value_heads", 3}}, "$.num_attention_heads: 4, expected a multiple of num_key_value_heads, 3"},
      {{{"num_attention_heads", 6}, {"head_dim", nullptr}},
       "$.hidden_size: 64, expected a multiple of num_attention_heads, 6, as there is no head_dim"},
      {{{"head_dim", 15}}, "$.head_dim: 15, expected an even number, as rotary embeddings need"},
      {{{"head_dim", 268435456}}, "$.head_dim: 268435456 in 4 heads, expected a product of at most 268435456"},
      {{{"dtype", "float64"}}, R"($.dtype: "float64", expected float32, float16 or bfloat16)"},
      {{{"torch_dtype", 16}}, "$.torch_dtype: 16, expected a string or null"},
      {{{"dtype", "float16"}, {"torch_dtype", "float32"}},
       R"($.torch_dtype: "float32", expected "float16", as dtype says)"},
  }));
  CHECK(error_of(with(small_config("llama"), keys)) == "config.json: " + message);
}

TEST_CASE("a config that is no object or lies outside is refused") {
  CHECK(data_error({}, [] { static_cast<void>(parse_model_config("[]", "c.json")); }) ==
        "c.json: $: [], expected an object");
  CHECK(data_error({}, [] { static_cast<void>(parse_model_config("{}", "c.json")); }) ==
        "c.json: $.model_type: missing");
  CHECK(data_error({}, [] {
          static_cast<void>(parse_model_config(R"({"model_type": "llama", "model_type": "llama"})", "c.json"));
        }) == "c.json: $.model_type: the key occurs twice");
  const test::TemporaryDirectory directory, elsewhere;
  CHECK(data_error(directory.path(), [&] { static_cast<void>(read_model_config(directory.path())); }) ==
        "config.json: there is no such file");
  std::filesystem::create_symlink(elsewhere.write("blob", "{}"), directory / "config.json");
  CHECK(data_error(directory.path(), [&] { static_cast<void>(read_model_config(directory.path())); }) ==
        "config.json: is a symlink to " + (elsewhere / "blob").string() +
            ", outside of the model directory; expected a real file (copy the directory with cp -rL)");
}

TEST_CASE("keys that change nothing are tolerated") {
  const json keys = {{"sparse_attention_config", {{"x", 1}}},
                     {"use_cache", false},
                     {"attention_dropout", 0.1},
                     {"_name_or_path", "x"},
                     {"transformers.js_config", json::object()},
                     {"is_llama_config", true},
                     {"quantization_config", nullptr}};
  CHECK(parse(with(small_config("llama"), keys)) == parse(small_config("llama")));
}

}  // namespace
}  // namespace modelopt::checkpoint
