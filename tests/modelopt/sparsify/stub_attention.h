// Modules with slots and without anything else, to see which slots sparsify() fills.
#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <string>

#include <modelopt/attention/attention_slot.h>

namespace modelopt::test {

class StubAttention : public torch::nn::Module, public attention::AttentionSlotOwner {
 public:
  explicit StubAttention(std::string class_name = "StubAttention", std::int64_t head_dim = 64)
      : traits_{.class_name = std::move(class_name), .num_heads = 2, .num_key_value_heads = 1, .head_dim = head_dim} {}

  [[nodiscard]] attention::AttentionSlot& attention_slot() override { return slot_; }
  [[nodiscard]] attention::AttentionModuleTraits attention_traits() const override { return traits_; }

 private:
  attention::AttentionModuleTraits traits_;
  attention::AttentionSlot slot_;
};

/// "layers.0.attn" … with an MLP beside each, which no pattern can match.
class StubModel : public torch::nn::Module {
 public:
  explicit StubModel(int layers) {
    for (int i = 0; i < layers; ++i) {
      auto layer = std::make_shared<torch::nn::Module>();
      attention.push_back(layer->register_module("attn", std::make_shared<StubAttention>()));
      layer->register_module("mlp", std::make_shared<torch::nn::Module>());
      register_module("layers_" + std::to_string(i), layer);
    }
  }

  std::vector<std::shared_ptr<StubAttention>> attention;
};

}  // namespace modelopt::test
