#include "gated_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>

#include <cmath>

#include <modelopt/attention/attention_interface.h>

using namespace modelopt::attention;

GatedAttention::GatedAttention(std::int64_t num_heads, std::int64_t head_dim)
    : num_heads_(num_heads),
      head_dim_(head_dim),
      qkv_proj_(register_module("qkv_proj", torch::nn::Linear(num_heads * head_dim, 3 * num_heads * head_dim))),
      gate_proj_(register_module("gate_proj", torch::nn::Linear(num_heads * head_dim, num_heads * head_dim))),
      out_proj_(register_module("out_proj", torch::nn::Linear(num_heads * head_dim, num_heads * head_dim))) {}

at::Tensor GatedAttention::forward(const at::Tensor& hidden) {
  const std::int64_t tokens = hidden.size(0);
  const at::Tensor qkv = qkv_proj_->forward(hidden).view({tokens, 3, num_heads_, head_dim_});
  AttentionCall call;
  call.q = qkv.select(1, 0);
  call.k = qkv.select(1, 1);
  call.v = qkv.select(1, 2);
  call.layout.b_start_loc = at::tensor({0}, at::kInt);
  call.layout.b_seq_len = at::tensor({tokens}, at::kInt);
  call.layout.max_input_len = tokens;
  call.phase = Phase::kPrefill;
  call.softmax_scale = 1.0 / std::sqrt(static_cast<double>(head_dim_));
  const at::Tensor mixed = attend(slot_, call).output.view({tokens, -1});  // dense, or as the slot says
  return out_proj_->forward(mixed * gate_proj_->forward(hidden).sigmoid());
}

AttentionModuleTraits GatedAttention::attention_traits() const {
  return {.class_name = "GatedAttention",
          .num_heads = num_heads_,
          .num_key_value_heads = num_heads_,
          .head_dim = head_dim_,
          .dtype = qkv_proj_->weight.scalar_type(),
          .device = qkv_proj_->weight.device()};
}

Block::Block(std::int64_t num_heads, std::int64_t head_dim)
    : mixer_(register_module("mixer", std::make_shared<GatedAttention>(num_heads, head_dim))) {}

at::Tensor Block::forward(const at::Tensor& hidden) { return hidden + mixer_->forward(hidden); }
