// Root-mean-square layer norm (arXiv 1910.07467) with the roundings of HuggingFace's LlamaRMSNorm.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>

namespace modelopt::models {

/// weight * cast(x / sqrt(mean(x^2) + eps)): normalises in fp32 and casts back before the weight is applied.
/// Registered name: `weight` [size].
class RMSNorm : public torch::nn::Module {
 public:
  RMSNorm(std::int64_t size, double eps, at::ScalarType dtype, at::Device device);

  /// Normalises over the last dimension, which has `size` entries.
  [[nodiscard]] at::Tensor forward(const at::Tensor& input) const;

 private:
  at::Tensor weight_;
  double eps_;
};

}  // namespace modelopt::models
