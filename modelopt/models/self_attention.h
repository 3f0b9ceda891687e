// The attention module of the decoder models: projections, q/k norms, RoPE, KV cache, and the slot of its method.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>

#include <modelopt/attention/attention_call.h>
#include <modelopt/attention/attention_interface.h>
#include <modelopt/attention/attention_slot.h>
#include <modelopt/models/kv_cache.h>
#include <modelopt/models/linear.h>
#include <modelopt/models/model_config.h>
#include <modelopt/models/rms_norm.h>
#include <modelopt/models/rotary_embedding.h>

namespace modelopt::models {

/// What all layers of one forward share.
struct ForwardContext {
  attention::Phase phase = attention::Phase::kPrefill;
  attention::SequenceLayout layout;
  RotaryTable rotary;
  KVCache* cache = nullptr;             ///< null: the keys are those of this call
  const CacheAppend* append = nullptr;  ///< where this call's keys go; set with `cache`
};

/// Grouped-query attention. Registered names: q_proj, k_proj, v_proj, o_proj; q_norm, k_norm in some models.
class SelfAttention : public torch::nn::Module, public attention::AttentionSlotOwner {
 public:
  SelfAttention(const ModelConfig& config, std::int64_t layer, at::ScalarType dtype, at::Device device);

  /// hidden [total, hidden_size] -> output [total, hidden_size], and statistics if the slot asks for them.
  [[nodiscard]] attention::AttentionOutput forward(const at::Tensor& hidden, const ForwardContext& context) const;

  [[nodiscard]] attention::AttentionSlot& attention_slot() override { return slot_; }
  [[nodiscard]] attention::AttentionModuleTraits attention_traits() const override;

 private:
  std::int64_t layer_;
  std::int64_t num_heads_;
  std::int64_t num_key_value_heads_;
  std::int64_t head_dim_;
  std::int64_t sliding_window_;
  std::int64_t max_position_embeddings_;
  std::shared_ptr<Linear> q_proj_, k_proj_, v_proj_, o_proj_;
  std::shared_ptr<RMSNorm> q_norm_, k_norm_;  ///< null where the model has none
  attention::AttentionSlot slot_;
};

}  // namespace modelopt::models
