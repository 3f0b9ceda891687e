// Keys and values of earlier tokens: one buffer per layer, a fixed slot per sequence. Nothing moves or is evicted.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include <modelopt/attention/attention_call.h>
#include <modelopt/models/model_config.h>

namespace modelopt::models {

/// Where one forward writes its keys, and where attention reads them; valid until the cache changes.
struct CacheAppend {
  std::vector<std::int64_t> slots;    ///< [B], distinct
  std::vector<std::int64_t> lengths;  ///< [B], new tokens
  at::Tensor rows;                    ///< int64 [total]: buffer row of each new token, in packed order
  at::Tensor b_start_loc_k;           ///< int32 [B]: first buffer row of each slot
  at::Tensor b_seq_len_k;             ///< int32 [B]: keys of each sequence, the new ones included
  std::int64_t max_input_len_k = 0;
};

/// Inference only: the buffers are written in place.
class KVCache {
 public:
  /// Buffers [num_slots * capacity, num_key_value_heads, head_dim] for keys and values of every layer. Pages that no
  /// token has reached are not touched. Throws InvalidArgument unless 1 <= num_slots, capacity and their product fits
  /// in int32.
  KVCache(const ModelConfig& config, std::int64_t num_slots, std::int64_t capacity, at::ScalarType dtype,
          at::Device device = at::kCPU);

  [[nodiscard]] std::int64_t num_slots() const { return static_cast<std::int64_t>(lengths_.size()); }
  [[nodiscard]] std::int64_t capacity() const { return capacity_; }
  /// Tokens that the slot holds. Throws InvalidArgument for a slot that does not exist.
  [[nodiscard]] std::int64_t length(std::int64_t slot) const;
  /// Forgets the slot's tokens, so that another sequence can use it.
  void clear(std::int64_t slot);

  /// Plans to append lengths[b] tokens to slots[b]; changes nothing. Throws InvalidArgument, naming slot, need and
  /// capacity, where the tokens do not fit, and for slots that do not exist or occur twice.
  [[nodiscard]] CacheAppend plan_append(const std::vector<std::int64_t>& slots,
                                        const std::vector<std::int64_t>& lengths) const;
  /// Writes the new keys and values [total, num_key_value_heads, head_dim] of one layer.
  void write(std::int64_t layer, const CacheAppend& append, const at::Tensor& key, const at::Tensor& value);
  /// Makes the tokens of a plan part of their slots, once every layer has written them.
  void commit(const CacheAppend& append);

  [[nodiscard]] const at::Tensor& keys(std::int64_t layer) const { return keys_.at(static_cast<std::size_t>(layer)); }
  [[nodiscard]] const at::Tensor& values(std::int64_t layer) const {
    return values_.at(static_cast<std::size_t>(layer));
  }

 private:
  std::int64_t capacity_;
  std::vector<std::int64_t> lengths_;      ///< by slot
  std::vector<at::Tensor> keys_, values_;  ///< by layer
};

}  // namespace modelopt::models
