#include <modelopt/models/kv_cache.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <limits>
#include <set>

#include <modelopt/error.h>
#include <modelopt/models/to_device.h>

namespace modelopt::models {

KVCache::KVCache(const ModelConfig& config, std::int64_t num_slots, std::int64_t capacity, at::ScalarType dtype,
                 at::Device device)
    : capacity_(capacity) {
  MODELOPT_CHECK(num_slots >= 1, InvalidArgument, "num_slots is ", num_slots, ", expected at least 1");
  MODELOPT_CHECK(capacity >= 1, InvalidArgument, "capacity is ", capacity, ", expected at least 1 token per slot");
  constexpr std::int64_t kMaxRows = std::numeric_limits<std::int32_t>::max();  // row numbers are int32 in the operator
  MODELOPT_CHECK(capacity <= kMaxRows / num_slots, InvalidArgument, "a cache of ", num_slots, " slots of ", capacity,
                 " tokens has more rows than expected, at most ", kMaxRows);
  lengths_.assign(static_cast<std::size_t>(num_slots), 0);
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    keys_.push_back(at::empty({num_slots * capacity, config.num_key_value_heads, config.head_dim}, options));
    values_.push_back(at::empty_like(keys_.back()));
  }
}

std::int64_t KVCache::length(std::int64_t slot) const {
  MODELOPT_CHECK(slot >= 0 && slot < num_slots(), InvalidArgument, "cache slot is ", slot, ", expected 0 to ",
                 num_slots() - 1);
  return lengths_[static_cast<std::size_t>(slot)];
}

void KVCache::clear(std::int64_t slot) {
  (void)length(slot);  // checks the slot
  lengths_[static_cast<std::size_t>(slot)] = 0;
}

CacheAppend KVCache::plan_append(const std::vector<std::int64_t>& slots,
                                 const std::vector<std::int64_t>& lengths) const {
  MODELOPT_CHECK(slots.size() == lengths.size(), InvalidArgument, "slots has ", slots.size(), " entries, expected ",
                 lengths.size(), ", one per sequence");
  CacheAppend append{.slots = slots, .lengths = lengths};
  std::set<std::int64_t> seen;
  std::vector<std::int64_t> rows;
  std::vector<std::int32_t> starts, ends;
  for (std::size_t b = 0; b < slots.size(); ++b) {
    const std::int64_t slot = slots[b], before = length(slot), after = before + lengths[b];
    MODELOPT_CHECK(seen.insert(slot).second, InvalidArgument, "cache slot ", slot,
                   " occurs twice, expected distinct slots");
    MODELOPT_CHECK(after <= capacity_, InvalidArgument, "cache slot ", slot, " holds ", before, " tokens and gets ",
                   lengths[b], " more, expected at most its capacity of ", capacity_);
    for (std::int64_t i = before; i < after; ++i) rows.push_back(slot * capacity_ + i);
    starts.push_back(static_cast<std::int32_t>(slot * capacity_));
    ends.push_back(static_cast<std::int32_t>(after));
    append.max_input_len_k = std::max(append.max_input_len_k, after);
  }
  const at::Device device = keys_.front().device();
  append.rows = to_device(rows, device);
  append.b_start_loc_k = to_device(starts, device);
  append.b_seq_len_k = to_device(ends, device);
  return append;
}

void KVCache::write(std::int64_t layer, const CacheAppend& append, const at::Tensor& key, const at::Tensor& value) {
  MODELOPT_CHECK(!at::GradMode::is_enabled() || !(key.requires_grad() || value.requires_grad()), Unsupported,
                 "a KV cache has no gradient: run without cache, or disable gradients");
  keys_.at(static_cast<std::size_t>(layer)).index_copy_(0, append.rows, key);
  values_.at(static_cast<std::size_t>(layer)).index_copy_(0, append.rows, value);
}

void KVCache::commit(const CacheAppend& append) {
  for (std::size_t b = 0; b < append.slots.size(); ++b) {
    lengths_.at(static_cast<std::size_t>(append.slots[b])) += append.lengths[b];
  }
}

}  // namespace modelopt::models
