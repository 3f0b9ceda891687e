// Small random models for tests.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include <modelopt/attention/attention_slot.h>
#include <modelopt/models/causal_lm.h>

namespace modelopt::models {

inline ModelConfig tiny_config(ModelType type = ModelType::kLlama) {
  ModelConfig config;
  config.type = type;
  config.vocab_size = 97;
  config.hidden_size = 48;
  config.intermediate_size = 80;
  config.num_hidden_layers = 3;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 16;
  config.max_position_embeddings = 256;
  config.sliding_window.assign(3, 0);
  config.attention_qkv_bias = type == ModelType::kQwen2;
  config.qk_norm = type == ModelType::kQwen3;
  return config;
}

/// Matrices keep the size of what passes through them; norm weights and biases are of order one.
inline std::shared_ptr<CausalLM> random_model(const ModelConfig& config, std::uint64_t seed = 7) {
  auto model = std::make_shared<CausalLM>(config);
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  for (auto& parameter : model->named_parameters()) {
    at::Tensor& tensor = parameter.value();
    const double scale = tensor.dim() == 2 ? 1.5 / std::sqrt(static_cast<double>(tensor.size(1))) : 1.0;
    tensor.set_data(at::randn(tensor.sizes(), generator, tensor.options()) * scale);
  }
  return model;
}

inline std::vector<std::int64_t> random_ids(std::int64_t length, std::uint64_t seed = 3) {
  std::vector<std::int64_t> ids(static_cast<std::size_t>(length));
  for (std::int64_t& id : ids)
    id = static_cast<std::int64_t>((seed = seed * 6364136223846793005U + 1442695040888963407U) >> 33) % 97;
  return ids;
}

inline ModelInput packed(const std::vector<std::vector<std::int64_t>>& sequences) {
  ModelInput input;
  std::vector<std::int64_t> ids;
  for (const auto& sequence : sequences) {
    ids.insert(ids.end(), sequence.begin(), sequence.end());
    input.lengths.push_back(std::ssize(sequence));
  }
  input.input_ids = at::tensor(ids, at::kLong);
  return input;
}

inline std::vector<attention::AttentionSlotOwner*> slot_owners(CausalLM& model) {
  std::vector<attention::AttentionSlotOwner*> owners;
  for (const auto& module : model.modules()) {
    if (auto* owner = dynamic_cast<attention::AttentionSlotOwner*>(module.get())) owners.push_back(owner);
  }
  return owners;
}

inline void collect_stats(CausalLM& model) {
  for (auto* owner : slot_owners(model)) owner->attention_slot().collect_stats = true;
}

/// Largest difference in units of the largest value: fp32 rounding through a few layers stays below 1e-5.
inline double relative_difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

constexpr double kRounding = 1e-5;

}  // namespace modelopt::models
