// The attention modules of a model: what sparsify() works on.
#pragma once

#include <torch/nn/module.h>

#include <string>
#include <vector>

#include <modelopt/attention/attention_slot.h>

namespace modelopt {

struct AttentionModule {
  std::string name;  ///< as in named_modules(), e.g. "model.layers.3.self_attn"; empty for the model itself
  attention::AttentionSlotOwner* owner = nullptr;
};

/// In the model's order; a module that is registered twice counts under its first name.
[[nodiscard]] std::vector<AttentionModule> attention_modules(torch::nn::Module& model);

/// Of all modules together, since sparsify() filled their slots.
[[nodiscard]] attention::ThresholdCounts threshold_counts(torch::nn::Module& model, attention::Phase phase);

}  // namespace modelopt
