// Rotary position embedding (arXiv 2104.09864) with the frequency scalings of HuggingFace's `rope_parameters`.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <vector>

#include <modelopt/models/model_config.h>

namespace modelopt::models {

/// Cosines and sines of the rows of a packed batch, in the model's dtype: [total, 1, head_dim] each.
struct RotaryTable {
  at::Tensor cos;
  at::Tensor sin;
};

/// Rotates x [total, heads, head_dim]; dimension d is paired with d + head_dim/2.
[[nodiscard]] at::Tensor apply_rotary(const at::Tensor& x, const RotaryTable& table);

/// Frequencies in fp32 and one factor on cosines and sines, as transformers computes them for each RopeType.
///
/// `dynamic` depends on the length of the sequence. transformers takes the longest length of the batch seen so far, so
/// that results depend on neighbours, on chunking and on earlier calls; here each sequence has the length that the
/// caller states (the whole prompt's), and it stays fixed while the prompt is read in chunks and continued.
class RotaryEmbedding : public torch::nn::Module {
 public:
  /// Throws InvalidArgument for an odd head_dim and for scaling parameters out of their domain.
  RotaryEmbedding(RopeConfig rope, std::int64_t head_dim, std::int64_t max_position_embeddings,
                  at::Device device = at::kCPU);

  /// positions: int64 [total] on this device, packed sequences of `lengths` rows; prompt_lengths: [B], used by
  /// `dynamic` only.
  [[nodiscard]] RotaryTable forward(const at::Tensor& positions, const std::vector<std::int64_t>& lengths,
                                    const std::vector<std::int64_t>& prompt_lengths, at::ScalarType dtype) const;

  /// fp32 [head_dim / 2] on the CPU: angle per position of each pair, for a sequence of this length.
  [[nodiscard]] at::Tensor inverse_frequencies(std::int64_t prompt_length) const;

  /// Factor on cosines and sines; 1 for all types but yarn.
  [[nodiscard]] double attention_factor() const;

 private:
  [[nodiscard]] at::Tensor angles(const at::Tensor& positions, const std::vector<std::int64_t>& lengths,
                                  const std::vector<std::int64_t>& prompt_lengths) const;

  RopeConfig rope_;
  std::int64_t head_dim_;
  std::int64_t max_position_embeddings_;
  /// Of a sequence within max_position_embeddings, on the device; not part of the state dict.
  at::Tensor inverse_frequencies_;
};

}  // namespace modelopt::models
