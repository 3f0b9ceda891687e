#include <modelopt/models/decoder_layer.h>

#include <utility>

#include <modelopt/error.h>

namespace modelopt::models {

DecoderLayer::DecoderLayer(const ModelConfig& config, std::int64_t layer, at::ScalarType dtype, at::Device device)
    : torch::nn::Module(str(class_prefix(config.type), "DecoderLayer")),
      self_attn_(register_module("self_attn", std::make_shared<SelfAttention>(config, layer, dtype, device))),
      mlp_(register_module("mlp", std::make_shared<MLP>(config, dtype, device))) {
  const auto norm = [&] { return std::make_shared<RMSNorm>(config.hidden_size, config.rms_norm_eps, dtype, device); };
  input_layernorm_ = register_module("input_layernorm", norm());
  post_attention_layernorm_ = register_module("post_attention_layernorm", norm());
}

DecoderLayer::Output DecoderLayer::forward(const at::Tensor& hidden, const ForwardContext& context) const {
  attention::AttentionOutput attended = self_attn_->forward(input_layernorm_->forward(hidden), context);
  const at::Tensor residual = attended.output.add_(hidden);
  return {.hidden = mlp_->forward(post_attention_layernorm_->forward(residual)).add_(residual),
          .stats = std::move(attended.stats),
          .trials = std::move(attended.trials)};
}

}  // namespace modelopt::models
