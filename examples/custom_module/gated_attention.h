// A model of one's own: attention that is not in the zoo takes part in sparsify() by owning a slot.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/linear.h>

#include <memory>

#include <modelopt/attention/attention_slot.h>

/// Multi-head attention whose output is multiplied by a gate, over one sequence.
class GatedAttention : public torch::nn::Module, public modelopt::attention::AttentionSlotOwner {
 public:
  GatedAttention(std::int64_t num_heads, std::int64_t head_dim);

  /// hidden [tokens, num_heads * head_dim] -> the same shape
  at::Tensor forward(const at::Tensor& hidden);

  modelopt::attention::AttentionSlot& attention_slot() override { return slot_; }
  modelopt::attention::AttentionModuleTraits attention_traits() const override;

 private:
  std::int64_t num_heads_, head_dim_;
  torch::nn::Linear qkv_proj_, gate_proj_, out_proj_;
  modelopt::attention::AttentionSlot slot_;
};

/// Holds the attention as a typed member. sparsify() replaces no module, so the member goes on being the one that runs.
class Block : public torch::nn::Module {
 public:
  Block(std::int64_t num_heads, std::int64_t head_dim);
  at::Tensor forward(const at::Tensor& hidden);
  GatedAttention& mixer() { return *mixer_; }

 private:
  std::shared_ptr<GatedAttention> mixer_;
};
