// What is measured: attention over sequences of one length, as the operator's packed tensors and as PyTorch's.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <string_view>

#include <modelopt/kernels/attention.h>

namespace modelopt::bench {

/// N of M keys are kept; n = 0 is dense.
struct Pattern {
  std::int64_t n = 0;
  std::int64_t m = 4;

  bool operator==(const Pattern&) const = default;
};

/// "dense", or N:M as in "2:4".
[[nodiscard]] std::string to_string(Pattern pattern);

/// The inverse. Throws InvalidArgument for anything but "dense" and N:M with 1 <= N < M, M being 4 or 8.
[[nodiscard]] Pattern parse_pattern(std::string_view text);

struct AttentionShape {
  std::int64_t batch = 1;
  std::int64_t length = 0;  ///< keys of each sequence, and its queries unless decode
  std::int64_t heads = 32;
  std::int64_t kv_heads = 8;
  std::int64_t head_dim = 128;
  bool is_causal = true;
  bool decode = false;    ///< one query per sequence, which sees all keys
  bool backward = false;  ///< a run is forward and backward, with the gradients of q, k and v

  [[nodiscard]] std::int64_t queries() const { return decode ? 1 : length; }
  /// Of dense attention, whatever a pattern leaves out; causal attention counts as half of it. Forward and backward
  /// are 7 products of matrices where the forward is 2.
  [[nodiscard]] double flops() const;
};

/// Random inputs, in both layouts.
struct AttentionProblem {
  AttentionShape shape;
  kernels::AttentionArgs packed;  ///< dense; phase and metadata are set
  at::Tensor q, k, v;             ///< [batch, heads, length, head_dim], contiguous: the same values
  at::Tensor grad_output;         ///< [batch * queries, heads, head_dim], with `backward`; else undefined

  /// Read at least once by any computation of decode.
  [[nodiscard]] double key_value_bytes() const;
};

/// On `device`, normally distributed; with `backward` its inputs require gradients.
[[nodiscard]] AttentionProblem make_problem(const AttentionShape& shape, at::Device device, at::ScalarType dtype,
                                            std::uint64_t seed);

}  // namespace modelopt::bench
