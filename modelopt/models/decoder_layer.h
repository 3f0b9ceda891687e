// One pre-norm transformer layer.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>

#include <modelopt/models/mlp.h>
#include <modelopt/models/model_config.h>
#include <modelopt/models/rms_norm.h>
#include <modelopt/models/self_attention.h>

namespace modelopt::models {

/// Registered names: self_attn, mlp, input_layernorm, post_attention_layernorm.
class DecoderLayer : public torch::nn::Module {
 public:
  DecoderLayer(const ModelConfig& config, std::int64_t layer, at::ScalarType dtype, at::Device device);

  struct Output {
    at::Tensor hidden;              ///< [total, hidden_size]
    at::Tensor stats;               ///< of the attention module, undefined if its slot does not ask for them
    attention::TrialCounts trials;  ///< likewise
  };
  [[nodiscard]] Output forward(const at::Tensor& hidden, const ForwardContext& context) const;

 private:
  std::shared_ptr<SelfAttention> self_attn_;
  std::shared_ptr<MLP> mlp_;
  std::shared_ptr<RMSNorm> input_layernorm_, post_attention_layernorm_;
};

}  // namespace modelopt::models
