// The gated feed-forward block (SwiGLU, arXiv 2002.05202).
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <memory>

#include <modelopt/models/linear.h>
#include <modelopt/models/model_config.h>

namespace modelopt::models {

/// down_proj(silu(gate_proj(x)) * up_proj(x)); those are the registered names.
class MLP : public torch::nn::Module {
 public:
  MLP(const ModelConfig& config, at::ScalarType dtype, at::Device device);

  /// [total, hidden_size] -> [total, hidden_size]
  [[nodiscard]] at::Tensor forward(const at::Tensor& hidden) const;

 private:
  std::shared_ptr<Linear> gate_proj_, up_proj_, down_proj_;
};

}  // namespace modelopt::models
