#include <modelopt/models/self_attention.h>

#include <cmath>

#include <modelopt/error.h>

namespace modelopt::models {

SelfAttention::SelfAttention(const ModelConfig& config, std::int64_t layer, at::ScalarType dtype, at::Device device)
    : torch::nn::Module(str(class_prefix(config.type), "Attention")),
      layer_(layer),
      num_heads_(config.num_attention_heads),
      num_key_value_heads_(config.num_key_value_heads),
      head_dim_(config.head_dim),
      sliding_window_(config.sliding_window.at(static_cast<std::size_t>(layer))),
      max_position_embeddings_(config.max_position_embeddings) {
  const auto projection = [&](std::int64_t in, std::int64_t out, bool bias) {
    return std::make_shared<Linear>(in, out, bias, dtype, device);
  };
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t q_size = num_heads_ * head_dim_, kv_size = num_key_value_heads_ * head_dim_;
  q_proj_ = register_module("q_proj", projection(hidden, q_size, config.attention_qkv_bias));
  k_proj_ = register_module("k_proj", projection(hidden, kv_size, config.attention_qkv_bias));
  v_proj_ = register_module("v_proj", projection(hidden, kv_size, config.attention_qkv_bias));
  o_proj_ = register_module("o_proj", projection(q_size, hidden, config.attention_out_bias));
  if (config.qk_norm) {
    q_norm_ = register_module("q_norm", std::make_shared<RMSNorm>(head_dim_, config.rms_norm_eps, dtype, device));
    k_norm_ = register_module("k_norm", std::make_shared<RMSNorm>(head_dim_, config.rms_norm_eps, dtype, device));
  }
}

attention::AttentionOutput SelfAttention::forward(const at::Tensor& hidden, const ForwardContext& context) const {
  at::Tensor query = q_proj_->forward(hidden).view({-1, num_heads_, head_dim_});
  at::Tensor key = k_proj_->forward(hidden).view({-1, num_key_value_heads_, head_dim_});
  const at::Tensor value = v_proj_->forward(hidden).view({-1, num_key_value_heads_, head_dim_});
  if (q_norm_) {
    query = q_norm_->forward(query);
    key = k_norm_->forward(key);
  }

  attention::AttentionCall call;
  call.q = apply_rotary(query, context.rotary);
  call.k = apply_rotary(key, context.rotary);
  call.v = value;
  if (context.cache != nullptr) {
    context.cache->write(layer_, *context.append, call.k, call.v);
    call.k = context.cache->keys(layer_);
    call.v = context.cache->values(layer_);
  }
  call.layout = context.layout;
  call.phase = context.phase;
  call.softmax_scale = 1.0 / std::sqrt(static_cast<double>(head_dim_));
  call.sliding_window = sliding_window_;

  attention::AttentionOutput result = attention::attend(slot_, call);
  result.output = o_proj_->forward(result.output.view({-1, num_heads_ * head_dim_}));
  return result;
}

attention::AttentionModuleTraits SelfAttention::attention_traits() const {
  return {.class_name = name(),
          .num_heads = num_heads_,
          .num_key_value_heads = num_key_value_heads_,
          .head_dim = head_dim_,
          .sliding_window = sliding_window_,
          .max_position_embeddings = max_position_embeddings_,
          .dtype = q_proj_->weight().scalar_type(),
          .device = q_proj_->weight().device()};
}

}  // namespace modelopt::models
