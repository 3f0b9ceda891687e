// sparsify() on a whole decoder model with random weights.
#include <modelopt/sparsify/sparsify.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <c10/core/GradMode.h>

#include <catch2/catch_test_macros.hpp>

#include <algorithm>

#include <modelopt/config/parse.h>
#include <modelopt/models/causal_lm.h>

using namespace modelopt;
using models::CausalLM;
using models::LogitRows;

namespace {

constexpr std::int64_t kVocabulary = 50;

std::shared_ptr<CausalLM> tiny_model() {
  models::ModelConfig config;
  config.type = models::ModelType::kLlama;
  config.vocab_size = kVocabulary;
  config.hidden_size = 32;
  config.intermediate_size = 48;
  config.num_hidden_layers = 3;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 8;
  config.max_position_embeddings = 256;
  config.sliding_window = {0, 0, 0};
  auto model = std::make_shared<CausalLM>(config);
  for (auto& parameter : model->named_parameters())
    parameter.value().set_data(at::randn(parameter.value().sizes()) * 0.5);
  return model;
}

config::SparseAttentionConfig two_of_four(const std::string& backend) {
  return config::parse_config(
      R"({"sparse_cfg": {"*attn*": {"method": "sparse_softmax", "dense_window_size": 4, "backend": ")" + backend +
          R"("}}})",
      "test");
}

at::Tensor prefill(CausalLM& model, const at::Tensor& ids) {
  return model.forward({.input_ids = ids, .lengths = {ids.size(0)}}).logits;
}

// Logits of one more token after a dense prefill, which both models below share.
at::Tensor decode(CausalLM& model, const at::Tensor& ids, const config::SparseAttentionConfig* config) {
  desparsify(model);
  models::KVCache cache = model.make_cache(1, 128);
  const std::int64_t length = ids.size(0) - 1;
  (void)model.forward(
      {.input_ids = ids.narrow(0, 0, length), .lengths = {length}, .logits = LogitRows::kNone, .cache = &cache});
  if (config != nullptr) sparsify(model, *config);
  return model
      .forward(
          {.input_ids = ids.narrow(0, length, 1), .lengths = {1}, .phase = attention::Phase::kDecode, .cache = &cache})
      .logits;
}

std::vector<std::string> names(const torch::nn::Module& model) {
  std::vector<std::string> result;
  for (const auto& item : model.named_modules("", /*include_self=*/false)) result.push_back(item.key());
  for (const auto& item : model.named_parameters()) result.push_back(item.key());
  for (const auto& item : model.named_buffers()) result.push_back(item.key());
  return result;
}

}  // namespace

TEST_CASE("sparse in prefill, dense in decode, and after desparsify the bit-identical dense model") {
  const c10::NoGradGuard no_grad;
  const auto model = tiny_model();
  const at::Tensor ids = at::randint(kVocabulary, {90}, at::kLong);
  const at::Tensor dense = prefill(*model, ids), dense_decode = decode(*model, ids, nullptr);
  for (const std::string backend : {"fused", "eager"}) {
    CAPTURE(backend);
    const auto config = two_of_four(backend);
    sparsify(*model, config);
    const at::Tensor sparse = prefill(*model, ids);
    CHECK_FALSE(at::allclose(sparse, dense, 1e-3, 1e-3));
    CHECK(at::equal(sparse.narrow(0, 0, 4), dense.narrow(0, 0, 4)) ==
          (backend == "fused"));  // inside the window all is dense
    CHECK(at::equal(decode(*model, ids, &config), dense_decode));
    sparsify(*model, config);
    desparsify(*model);
    CHECK(at::equal(prefill(*model, ids), dense));
  }
}

TEST_CASE("N = 0 is bit-identical to dense") {
  const c10::NoGradGuard no_grad;
  const auto model = tiny_model();
  const at::Tensor ids = at::randint(kVocabulary, {60}, at::kLong);
  const at::Tensor dense = prefill(*model, ids);
  for (const std::string backend : {"fused", "eager"}) {
    sparsify(*model, config::parse_config(
                         R"({"sparse_cfg": {"*attn*": {"method": "sparse_softmax", "sparsity_n": 0, "backend": ")" +
                             backend + R"("}}})",
                         "test"));
    CHECK(at::equal(prefill(*model, ids), dense));
  }
}

TEST_CASE("eager and fused give the same model within rounding") {
  const c10::NoGradGuard no_grad;
  const auto model = tiny_model();
  const at::Tensor ids = at::randint(kVocabulary, {90}, at::kLong);
  sparsify(*model, two_of_four("fused"));
  const at::Tensor fused = prefill(*model, ids);
  sparsify(*model, two_of_four("eager"));
  CHECK(at::allclose(prefill(*model, ids), fused, 1e-4, 1e-4));
}

TEST_CASE("names, state-dict keys and parameters stay as they are") {
  const auto model = tiny_model();
  const auto before = names(*model);
  const auto parameters = model->parameters();
  const auto report = sparsify(*model, presets::SPARSE_SOFTMAX_DEFAULT);
  CHECK(names(*model) == before);
  const auto after = model->parameters();
  REQUIRE(after.size() == parameters.size());
  for (std::size_t i = 0; i < after.size(); ++i) CHECK(after[i].is_same(parameters[i]));
  CHECK(report.modules[2].name == "model.layers.2.self_attn");
  CHECK(report.modules[2].class_name == "LlamaAttention");
}

TEST_CASE("statistics count what is attended") {
  const c10::NoGradGuard no_grad;
  const auto model = tiny_model();
  const at::Tensor ids = at::randint(kVocabulary, {64}, at::kLong);
  const auto counts = [&](const config::SparseAttentionConfig& config) {
    sparsify(*model, config, {.collect_stats = true});
    const auto output = model->forward({.input_ids = ids, .lengths = {64}});
    REQUIRE(output.stats.size() == 3);
    return output.stats[0].stats.select(2, 3)[0][0].item<std::int64_t>();
  };
  CHECK(counts({}) == 64 * 65 / 2);
  const std::int64_t attended = counts(
      config::parse_config(R"({"sparse_cfg": {"*": {"method": "sparse_softmax", "dense_window_size": 0}}})", "test"));
  std::int64_t expected = 0;  // min(2, visible) of each group
  for (std::int64_t visible = 1; visible <= 64; ++visible)
    expected += visible / 4 * 2 + std::min<std::int64_t>(visible % 4, 2);
  CHECK(attended == expected);
}
