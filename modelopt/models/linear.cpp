#include <modelopt/models/linear.h>

#include <ATen/ops/embedding.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>

#include <limits>

namespace modelopt::models {

at::Tensor placeholder_parameter(at::IntArrayRef shape, at::ScalarType dtype, at::Device device) {
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  return at::full({}, std::numeric_limits<double>::quiet_NaN(), options).expand(shape);
}

Linear::Linear(std::int64_t in_features, std::int64_t out_features, bool bias, at::ScalarType dtype, at::Device device)
    : torch::nn::Module("Linear"),
      weight_(register_parameter("weight", placeholder_parameter({out_features, in_features}, dtype, device), false)) {
  if (bias) bias_ = register_parameter("bias", placeholder_parameter({out_features}, dtype, device), false);
}

at::Tensor Linear::forward(const at::Tensor& input) const { return at::linear(input, weight_, bias_); }

Embedding::Embedding(std::int64_t num_embeddings, std::int64_t embedding_dim, at::ScalarType dtype, at::Device device)
    : torch::nn::Module("Embedding"),
      weight_(
          register_parameter("weight", placeholder_parameter({num_embeddings, embedding_dim}, dtype, device), false)) {}

at::Tensor Embedding::forward(const at::Tensor& ids) const { return at::embedding(weight_, ids); }

}  // namespace modelopt::models
