// Packed attention calls for tests.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include <modelopt/attention/attention_call.h>

namespace modelopt::attention {

struct CallShape {
  std::vector<int> queries;  ///< Lq of each sequence
  std::vector<int> keys;     ///< Lk of each sequence
  std::int64_t heads = 4;
  std::int64_t key_heads = 2;
  std::int64_t head_dim = 16;
};

inline at::Tensor starts_of(const std::vector<int>& lengths) {
  std::vector<int> starts(lengths.size());
  std::exclusive_scan(lengths.begin(), lengths.end(), starts.begin(), 0);
  return at::tensor(starts, at::kInt);
}

inline int longest(const std::vector<int>& lengths) { return *std::max_element(lengths.begin(), lengths.end()); }

/// Causal, with normally distributed q, k, v.
inline AttentionCall random_call(const CallShape& shape, at::ScalarType dtype = at::kFloat, std::uint64_t seed = 1) {
  const std::int64_t total_q = std::accumulate(shape.queries.begin(), shape.queries.end(), 0);
  const std::int64_t total_k = std::accumulate(shape.keys.begin(), shape.keys.end(), 0);
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  AttentionCall call;
  call.q = at::randn({total_q, shape.heads, shape.head_dim}, generator, at::kDouble).to(dtype);
  call.k = at::randn({total_k, shape.key_heads, shape.head_dim}, generator, at::kDouble).to(dtype);
  call.v = at::randn({total_k, shape.key_heads, shape.head_dim}, generator, at::kDouble).to(dtype);
  call.layout.b_start_loc = starts_of(shape.queries);
  call.layout.b_seq_len = at::tensor(shape.queries, at::kInt);
  call.layout.max_input_len = longest(shape.queries);
  call.layout.b_start_loc_k = starts_of(shape.keys);
  call.layout.b_seq_len_k = at::tensor(shape.keys, at::kInt);
  call.layout.max_input_len_k = longest(shape.keys);
  call.softmax_scale = 0.25;
  return call;
}

}  // namespace modelopt::attention
