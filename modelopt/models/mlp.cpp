#include <modelopt/models/mlp.h>

#include <ATen/ops/silu.h>

#include <modelopt/error.h>

namespace modelopt::models {

MLP::MLP(const ModelConfig& config, at::ScalarType dtype, at::Device device)
    : torch::nn::Module(str(class_prefix(config.type), "MLP")) {
  const std::int64_t hidden = config.hidden_size, intermediate = config.intermediate_size;
  const bool bias = config.mlp_bias;
  gate_proj_ = register_module("gate_proj", std::make_shared<Linear>(hidden, intermediate, bias, dtype, device));
  up_proj_ = register_module("up_proj", std::make_shared<Linear>(hidden, intermediate, bias, dtype, device));
  down_proj_ = register_module("down_proj", std::make_shared<Linear>(intermediate, hidden, bias, dtype, device));
}

at::Tensor MLP::forward(const at::Tensor& hidden) const {
  at::Tensor gate = gate_proj_->forward(hidden);
  return down_proj_->forward(at::silu_(gate).mul_(up_proj_->forward(hidden)));
}

}  // namespace modelopt::models
