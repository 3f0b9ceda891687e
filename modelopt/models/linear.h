// Linear layer and embedding whose parameters are placeholders until a checkpoint is mapped into them.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>

namespace modelopt::models {

/// A parameter of the given shape that owns one element: every entry reads NaN, so that a weight nobody loaded shows.
/// `Tensor::set_data` replaces it (same device type or another, same shape); holders of the tensor see the new data.
[[nodiscard]] at::Tensor placeholder_parameter(at::IntArrayRef shape, at::ScalarType dtype, at::Device device);

/// y = x W^T + b. Registered names: `weight` [out_features, in_features], `bias` [out_features] if there is one.
class Linear : public torch::nn::Module {
 public:
  Linear(std::int64_t in_features, std::int64_t out_features, bool bias, at::ScalarType dtype, at::Device device);

  /// [rows, in_features] -> [rows, out_features]
  [[nodiscard]] at::Tensor forward(const at::Tensor& input) const;

  [[nodiscard]] const at::Tensor& weight() const { return weight_; }

 private:
  at::Tensor weight_;
  at::Tensor bias_;
};

/// Table look-up. Registered name: `weight` [num_embeddings, embedding_dim].
class Embedding : public torch::nn::Module {
 public:
  Embedding(std::int64_t num_embeddings, std::int64_t embedding_dim, at::ScalarType dtype, at::Device device);

  /// ids [rows] int64 on the weight's device -> [rows, embedding_dim]
  [[nodiscard]] at::Tensor forward(const at::Tensor& ids) const;

  [[nodiscard]] const at::Tensor& weight() const { return weight_; }

 private:
  at::Tensor weight_;
};

}  // namespace modelopt::models
