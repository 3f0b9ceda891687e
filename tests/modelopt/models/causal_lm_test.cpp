#include <modelopt/models/causal_lm.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>

#include <c10/core/GradMode.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers.hpp>

#include <set>
#include <string>

#include <modelopt/error.h>

#include "modelopt/models/captured_stderr.h"
#include "modelopt/models/tiny_model.h"

using namespace modelopt;
using namespace modelopt::models;

namespace {

std::set<std::string> parameter_names(const CausalLM& model) {
  std::set<std::string> names;
  for (const auto& parameter : model.named_parameters()) names.insert(parameter.key());
  return names;
}

at::Tensor logits_of(CausalLM& model, const std::vector<std::vector<std::int64_t>>& sequences) {
  return model.forward(packed(sequences)).logits;
}

// Reads the sequence in pieces of the given lengths through a cache; all logits.
at::Tensor chunked(CausalLM& model, const std::vector<std::int64_t>& ids, const std::vector<std::int64_t>& pieces,
                   Phase phase) {
  KVCache cache = model.make_cache(1, std::ssize(ids));
  std::vector<at::Tensor> logits;
  auto next = ids.begin();
  for (const std::int64_t piece : pieces) {
    ModelInput input = packed({{next, next + piece}});
    input.cache = &cache;
    input.phase = phase;
    input.prompt_lengths = {std::ssize(ids)};
    logits.push_back(model.forward(input).logits);
    next += piece;
  }
  REQUIRE(next == ids.end());
  return at::cat(logits);
}

}  // namespace

TEST_CASE("Parameters have the names of HuggingFace's checkpoints") {
  ModelConfig config = tiny_config(ModelType::kQwen3);
  config.num_hidden_layers = 1;
  config.sliding_window = {0};
  const std::string layer = "model.layers.0.";
  const std::set<std::string> common = {"model.embed_tokens.weight",       "model.norm.weight",
                                        layer + "input_layernorm.weight",  layer + "post_attention_layernorm.weight",
                                        layer + "mlp.gate_proj.weight",    layer + "mlp.up_proj.weight",
                                        layer + "mlp.down_proj.weight",    layer + "self_attn.q_proj.weight",
                                        layer + "self_attn.k_proj.weight", layer + "self_attn.v_proj.weight",
                                        layer + "self_attn.o_proj.weight"};

  std::set<std::string> qwen3 = common;
  qwen3.insert({"lm_head.weight", layer + "self_attn.q_norm.weight", layer + "self_attn.k_norm.weight"});
  CHECK(parameter_names(CausalLM(config)) == qwen3);

  config.type = ModelType::kQwen2;
  config.qk_norm = false;
  config.attention_qkv_bias = true;
  config.tie_word_embeddings = true;
  std::set<std::string> qwen2 = common;
  for (const char* name : {"q_proj.bias", "k_proj.bias", "v_proj.bias"}) qwen2.insert(layer + "self_attn." + name);
  CHECK(parameter_names(CausalLM(config)) == qwen2);

  config.type = ModelType::kLlama;
  config.attention_out_bias = config.mlp_bias = true;
  std::set<std::string> llama = qwen2;
  for (const char* name : {"self_attn.o_proj.bias", "mlp.gate_proj.bias", "mlp.up_proj.bias", "mlp.down_proj.bias"})
    llama.insert(layer + name);
  CHECK(parameter_names(CausalLM(config)) == llama);
}

TEST_CASE("Attention modules are slot owners under HuggingFace's names and class names") {
  const auto [type, class_name] = GENERATE(table<ModelType, std::string>({{ModelType::kLlama, "LlamaAttention"},
                                                                          {ModelType::kMistral, "MistralAttention"},
                                                                          {ModelType::kQwen2, "Qwen2Attention"},
                                                                          {ModelType::kQwen3, "Qwen3Attention"}}));
  ModelConfig config = tiny_config(type);
  config.sliding_window = {0, 5, 0};
  const auto model = std::make_shared<CausalLM>(config, at::kBFloat16);
  std::vector<std::string> names;
  for (const auto& module : model->named_modules()) {
    if (auto* owner = dynamic_cast<attention::AttentionSlotOwner*>(module.value().get())) {
      names.push_back(module.key());
      CHECK(owner->attention_traits().class_name == class_name);
      CHECK(module.value()->name() == class_name);
    }
  }
  CHECK(names ==
        std::vector<std::string>{"model.layers.0.self_attn", "model.layers.1.self_attn", "model.layers.2.self_attn"});
  const attention::AttentionModuleTraits traits = slot_owners(*model)[1]->attention_traits();
  CHECK(traits.num_heads == 4);
  CHECK(traits.num_key_value_heads == 2);
  CHECK(traits.head_dim == 16);
  CHECK(traits.sliding_window == 5);
  CHECK(traits.max_position_embeddings == 256);
  CHECK(traits.dtype == at::kBFloat16);
  CHECK(traits.device.is_cpu());
}

TEST_CASE("A model that was not loaded takes no memory and gives NaN") {
  const auto model = std::make_shared<CausalLM>(tiny_config());
  for (const auto& parameter : model->named_parameters()) {
    INFO(parameter.key());
    CHECK(parameter.value().storage().nbytes() == sizeof(float));
    CHECK_FALSE(parameter.value().requires_grad());
  }
  CHECK(logits_of(*model, {{1, 2}}).isnan().all().item<bool>());
}

TEST_CASE("A packed batch gives what its sequences give alone") {
  const auto model = random_model(tiny_config(GENERATE(ModelType::kLlama, ModelType::kQwen2, ModelType::kQwen3)));
  const std::vector<std::vector<std::int64_t>> sequences = {random_ids(37, 1), random_ids(1, 2), random_ids(64, 3)};
  std::vector<at::Tensor> alone;
  for (const auto& sequence : sequences) alone.push_back(logits_of(*model, {sequence}));
  const at::Tensor together = logits_of(*model, sequences);
  REQUIRE(together.sizes() == at::IntArrayRef{102, 97});
  CHECK(relative_difference(together, at::cat(alone)) < kRounding);
}

TEST_CASE("A prompt in chunks gives what it gives at once, also with a sliding window and dynamic RoPE") {
  ModelConfig config = tiny_config();
  SECTION("plain") {}
  SECTION("sliding window") { config.sliding_window = {7, 0, 1}; }
  SECTION("dynamic RoPE beyond the context") {
    config.rope.type = RopeType::kDynamic;
    config.rope.factor = 2.0;
    config.max_position_embeddings = 32;
  }
  const auto model = random_model(config);
  const std::vector<std::int64_t> ids = random_ids(50);
  const at::Tensor whole = logits_of(*model, {ids});
  CHECK(relative_difference(chunked(*model, ids, {16, 16, 17, 1}, Phase::kPrefill), whole) < kRounding);
  CHECK(relative_difference(chunked(*model, ids, {50}, Phase::kPrefill), whole) < kRounding);
}

TEST_CASE("Decoding token by token from a cache gives the full forward") {
  const auto model = random_model(tiny_config(ModelType::kQwen3));
  const std::vector<std::int64_t> ids = random_ids(20);
  const at::Tensor stepwise = chunked(*model, ids, std::vector<std::int64_t>(20, 1), Phase::kDecode);
  CHECK(relative_difference(stepwise, logits_of(*model, {ids})) < kRounding);
}

TEST_CASE("Sequences decode together in slots of their own") {
  const auto model = random_model(tiny_config());
  const std::vector<std::int64_t> a = random_ids(12, 1), b = random_ids(30, 2);
  KVCache cache = model->make_cache(4, 32);
  ModelInput prompt = packed({{a.begin(), a.end() - 1}, {b.begin(), b.end() - 1}});
  prompt.cache = &cache;
  prompt.slots = {3, 1};
  (void)model->forward(prompt);
  ModelInput step = packed({{b.back()}, {a.back()}});
  step.cache = &cache;
  step.slots = {1, 3};
  step.phase = Phase::kDecode;
  const at::Tensor logits = model->forward(step).logits;
  CHECK(cache.length(1) == 30);
  CHECK(cache.length(3) == 12);
  CHECK(relative_difference(logits[0], logits_of(*model, {b})[29]) < kRounding);
  CHECK(relative_difference(logits[1], logits_of(*model, {a})[11]) < kRounding);
}

TEST_CASE("The sliding window is each layer's own") {
  const std::vector<std::int64_t> ids = random_ids(24);
  ModelConfig config = tiny_config(ModelType::kMistral);
  const at::Tensor full = logits_of(*random_model(config), {ids});
  config.sliding_window = {0, 10, 0};
  const at::Tensor windowed = logits_of(*random_model(config), {ids});
  CHECK(relative_difference(windowed.narrow(0, 0, 10), full.narrow(0, 0, 10)) < kRounding);
  CHECK((windowed.narrow(0, 10, 14) - full.narrow(0, 10, 14)).abs().amax(1).min().item<double>() > 1e-3);

  config.sliding_window = {1, 1, 1};  // every token attends to itself alone, and its position does not matter
  const auto own_token_only = random_model(config);
  CHECK(relative_difference(logits_of(*own_token_only, {ids})[17], logits_of(*own_token_only, {{ids[17]}})[0]) <
        kRounding);
}

TEST_CASE("Norms of q and k make attention independent of the scale of their projections") {
  const auto model = random_model(tiny_config(ModelType::kQwen3));
  const std::vector<std::int64_t> ids = random_ids(24);
  const at::Tensor before = logits_of(*model, {ids});
  for (auto& parameter : model->named_parameters()) {
    if (parameter.key().find("q_proj") != std::string::npos || parameter.key().find("k_proj") != std::string::npos)
      parameter.value().mul_(64.0);
  }
  CHECK(relative_difference(logits_of(*model, {ids}), before) < kRounding);
}

TEST_CASE("A tied head is the embedding") {
  ModelConfig config = tiny_config();
  config.tie_word_embeddings = true;
  const auto model = random_model(config);
  const ModelOutput output = model->forward(packed({random_ids(5)}));
  const at::Tensor embedding = model->named_parameters()["model.embed_tokens.weight"];
  CHECK(at::equal(output.logits, at::linear(output.hidden, embedding)));
}

TEST_CASE("Logits of the last rows or of none; hidden states of every layer") {
  const auto model = random_model(tiny_config());
  ModelInput input = packed({random_ids(5, 1), random_ids(9, 2)});
  input.output_hidden_states = true;
  const ModelOutput all = model->forward(input);
  REQUIRE(all.hidden_states.size() == 4);
  CHECK(all.hidden_states[1].sizes() == at::IntArrayRef{14, 48});
  CHECK(at::equal(all.hidden_states[3], all.hidden));

  input.logits = LogitRows::kLast;
  const at::Tensor last = model->forward(input).logits;
  REQUIRE(last.sizes() == at::IntArrayRef{2, 97});
  CHECK(relative_difference(last[0], all.logits[4]) < kRounding);
  CHECK(relative_difference(last[1], all.logits[13]) < kRounding);

  input.logits = LogitRows::kNone;
  input.output_hidden_states = false;
  const ModelOutput none = model->forward(input);
  CHECK_FALSE(none.logits.defined());
  CHECK(none.hidden_states.empty());
  CHECK(relative_difference(model->logits(none.hidden.narrow(0, 3, 4)), all.logits.narrow(0, 3, 4)) < kRounding);
}

TEST_CASE("Statistics come from the modules that ask for them, one row per sequence") {
  const auto model = random_model(tiny_config());
  slot_owners(*model)[1]->attention_slot().collect_stats = true;
  const ModelOutput output = model->forward(packed({random_ids(5, 1), random_ids(9, 2)}));
  REQUIRE(output.stats.size() == 1);
  CHECK(output.stats[0].module == "model.layers.1.self_attn");
  CHECK(at::equal(output.stats[0].stats.select(2, 2),
                  at::tensor({15, 15, 15, 15, 45, 45, 45, 45}, at::kLong).view({2, 4})));
}

TEST_CASE("Gradients flow through a model without a cache") {
  const auto model = random_model(tiny_config());
  at::Tensor weight = model->named_parameters()["model.layers.0.self_attn.k_proj.weight"];
  weight.requires_grad_(true);
  const auto loss = [&] { return logits_of(*model, {random_ids(6)}).square().mean(); };
  loss().backward();
  const double gradient = weight.grad()[3][5].item<double>();
  const c10::NoGradGuard no_grad;
  constexpr double kStep = 1e-2;
  weight[3][5] += kStep;
  const double above = loss().item<double>();
  weight[3][5] -= 2 * kStep;
  const double below = loss().item<double>();
  CHECK(std::abs(gradient) > 1e-4);
  CHECK(std::abs(gradient - (above - below) / (2 * kStep)) < 0.02 * std::abs(gradient));
}

TEST_CASE("A sequence beyond the model's context is computed, with one warning per model") {
  ModelConfig config = tiny_config();
  config.max_position_embeddings = 8;
  const std::vector<std::int64_t> ids = random_ids(9);
  const auto model = random_model(config);
  const test::CapturedStderr log;
  (void)logits_of(*model, {{ids.begin(), ids.end() - 1}});
  CHECK(log.text().empty());
  const at::Tensor beyond = logits_of(*model, {ids});
  (void)logits_of(*model, {ids});
  const std::string text = log.text(),
                    expected = "a sequence has 9 tokens, more than the model's max_position_embeddings of 8";
  CHECK(text.find(expected) != std::string::npos);
  CHECK(text.find(expected) == text.rfind(expected));
  config.max_position_embeddings = 9;
  CHECK(at::equal(beyond, logits_of(*random_model(config), {ids})));

  config.max_position_embeddings = 8;
  config.rope.type = RopeType::kDynamic;
  (void)logits_of(*random_model(config), {ids});
  CHECK(log.text() == text);
}

TEST_CASE("Inputs that do not fit together are refused, and the cache stays as it was") {
  const auto model = random_model(tiny_config());
  KVCache cache = model->make_cache(1, 4);
  ModelInput input = packed({{1, 2, 3}});
  input.cache = &cache;
  SECTION("vocabulary") {
    input.input_ids = at::tensor({1, 97, 2}, at::kLong);
    CHECK_THROWS_WITH(model->forward(input), "input_ids holds 97, expected 0 to 96");
    input.input_ids = at::tensor({1, -1, 2}, at::kLong);
    CHECK_THROWS_WITH(model->forward(input), "input_ids holds -1, expected 0 to 96");
  }
  SECTION("lengths") {
    input.lengths = {2};
    CHECK_THROWS_WITH(model->forward(input), "input_ids has 3 tokens, expected 2, the sum of lengths");
    input.lengths = {};
    CHECK_THROWS_WITH(model->forward(input), "lengths is empty, expected at least one sequence");
    input.lengths = {0};
    CHECK_THROWS_WITH(model->forward(input), "length of sequence 0 is 0, expected at least 1");
  }
  SECTION("prompt lengths") {
    input.prompt_lengths = {3, 3};
    CHECK_THROWS_WITH(model->forward(input), "prompt_lengths has 2 entries, expected 1, one per sequence");
  }
  SECTION("capacity") {
    input = packed({{1, 2, 3, 4, 5}});
    input.cache = &cache;
    CHECK_THROWS_WITH(model->forward(input),
                      "cache slot 0 holds 0 tokens and gets 5 more, expected at most its capacity of 4");
  }
  SECTION("a kernel that does not exist") {
    slot_owners(*model)[2]->attention_slot().kernel = "abacus";
    CHECK_THROWS_AS(model->forward(input), InvalidArgument);
  }
  CHECK(cache.length(0) == 0);
}

TEST_CASE("A configuration that describes no model is refused") {
  ModelConfig config = tiny_config();
  SECTION("heads") {
    config.num_key_value_heads = 3;
    CHECK_THROWS_WITH(CausalLM(config), "num_attention_heads is 4, expected a multiple of num_key_value_heads, 3");
  }
  SECTION("sizes") {
    config.intermediate_size = 0;
    CHECK_THROWS_WITH(CausalLM(config), "intermediate_size is 0, expected at least 1");
  }
  SECTION("windows") {
    config.sliding_window = {0};
    CHECK_THROWS_WITH(CausalLM(config), "sliding_window has 1 entries, expected one per layer, 3");
  }
}
