#include <modelopt/models/causal_lm.h>

#include <ATen/ops/linear.h>

#include <torch/nn/modules/container/modulelist.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include <modelopt/error.h>
#include <modelopt/models/to_device.h>
#include <modelopt/util/device.h>
#include <modelopt/util/log.h>

namespace modelopt::models {
namespace {

void check_positive(const char* name, std::int64_t value) {
  MODELOPT_CHECK(value >= 1, InvalidArgument, name, " is ", value, ", expected at least 1");
}

ModelConfig checked(ModelConfig config) {
  check_positive("vocab_size", config.vocab_size);
  check_positive("hidden_size", config.hidden_size);
  check_positive("intermediate_size", config.intermediate_size);
  check_positive("num_hidden_layers", config.num_hidden_layers);
  check_positive("num_attention_heads", config.num_attention_heads);
  check_positive("num_key_value_heads", config.num_key_value_heads);
  check_positive("head_dim", config.head_dim);
  check_positive("max_position_embeddings", config.max_position_embeddings);
  MODELOPT_CHECK(config.num_attention_heads % config.num_key_value_heads == 0, InvalidArgument,
                 "num_attention_heads is ", config.num_attention_heads,
                 ", expected a multiple of num_key_value_heads, ", config.num_key_value_heads);
  MODELOPT_CHECK(std::ssize(config.sliding_window) == config.num_hidden_layers, InvalidArgument, "sliding_window has ",
                 config.sliding_window.size(), " entries, expected one per layer, ", config.num_hidden_layers);
  return config;
}

// What a forward needs to know of each sequence, as host values.
struct Batch {
  std::vector<std::int64_t> lengths;         // new tokens
  std::vector<std::int64_t> earlier;         // tokens in the cache
  std::vector<std::int64_t> prompt_lengths;  // see ModelInput
  std::int64_t total = 0;
  std::int64_t longest = 0;          // new tokens of the longest sequence
  std::int64_t longest_in_full = 0;  // earlier and new ones
};

Batch describe(const ModelInput& input, const std::vector<std::int64_t>& slots) {
  Batch batch;
  MODELOPT_CHECK(!input.lengths.empty(), InvalidArgument, "lengths is empty, expected at least one sequence");
  MODELOPT_CHECK(input.prompt_lengths.empty() || input.prompt_lengths.size() == input.lengths.size(), InvalidArgument,
                 "prompt_lengths has ", input.prompt_lengths.size(), " entries, expected ", input.lengths.size(),
                 ", one per sequence");
  for (std::size_t b = 0; b < input.lengths.size(); ++b) {
    const std::int64_t length = input.lengths[b];
    MODELOPT_CHECK(length >= 1, InvalidArgument, "length of sequence ", b, " is ", length, ", expected at least 1");
    const std::int64_t earlier = input.cache != nullptr ? input.cache->length(slots[b]) : 0;
    batch.lengths.push_back(length);
    batch.earlier.push_back(earlier);
    batch.prompt_lengths.push_back(input.prompt_lengths.empty() ? earlier + length : input.prompt_lengths[b]);
    batch.total += length;
    batch.longest = std::max(batch.longest, length);
    batch.longest_in_full = std::max(batch.longest_in_full, earlier + length);
  }
  return batch;
}

void check_ids(const at::Tensor& ids, std::int64_t total, std::int64_t vocab_size) {
  MODELOPT_CHECK(ids.defined() && ids.dim() == 1 && ids.scalar_type() == at::kLong, InvalidArgument,
                 "input_ids is not an int64 tensor of one dimension");
  MODELOPT_CHECK(ids.size(0) == total, InvalidArgument, "input_ids has ", ids.size(0), " tokens, expected ", total,
                 ", the sum of lengths");
  const auto smallest = ids.min().item<std::int64_t>(), largest = ids.max().item<std::int64_t>();
  MODELOPT_CHECK(smallest >= 0 && largest < vocab_size, InvalidArgument, "input_ids holds ",
                 smallest < 0 ? smallest : largest, ", expected 0 to ", vocab_size - 1);
}

at::Tensor positions(const Batch& batch, at::Device device) {
  std::vector<std::int64_t> values;
  values.reserve(static_cast<std::size_t>(batch.total));
  for (std::size_t b = 0; b < batch.lengths.size(); ++b) {
    for (std::int64_t i = 0; i < batch.lengths[b]; ++i) values.push_back(batch.earlier[b] + i);
  }
  return to_device(values, device);
}

attention::SequenceLayout layout(const Batch& batch, const CacheAppend* append, at::Device device) {
  std::vector<std::int32_t> starts, lengths;
  std::int64_t start = 0;
  for (const std::int64_t length : batch.lengths) {
    starts.push_back(static_cast<std::int32_t>(start));
    lengths.push_back(static_cast<std::int32_t>(length));
    start += length;
  }
  attention::SequenceLayout result;
  result.b_start_loc = to_device(starts, device);
  result.b_seq_len = to_device(lengths, device);
  result.max_input_len = batch.longest;
  if (append != nullptr) {
    result.b_start_loc_k = append->b_start_loc_k;
    result.b_seq_len_k = append->b_seq_len_k;
    result.max_input_len_k = append->max_input_len_k;
  }
  return result;
}

// SequenceLayout::full_lengths.
std::vector<std::int64_t> full_lengths(const Batch& batch, Phase phase) {
  if (phase == Phase::kPrefill) return batch.prompt_lengths;
  std::vector<std::int64_t> result = batch.earlier;
  for (std::size_t b = 0; b < result.size(); ++b) result[b] += batch.lengths[b];
  return result;
}

// Row of the last token of each sequence.
at::Tensor last_rows(const Batch& batch, at::Device device) {
  std::vector<std::int64_t> rows(batch.lengths.size());
  std::partial_sum(batch.lengths.begin(), batch.lengths.end(), rows.begin());
  for (std::int64_t& row : rows) --row;
  return to_device(rows, device);
}

}  // namespace

DecoderModel::DecoderModel(const ModelConfig& config, at::ScalarType dtype, at::Device device)
    : torch::nn::Module(str(class_prefix(config.type), "Model")) {
  embed_tokens_ = register_module("embed_tokens",
                                  std::make_shared<Embedding>(config.vocab_size, config.hidden_size, dtype, device));
  torch::nn::ModuleList layers;
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    layers_.push_back(std::make_shared<DecoderLayer>(config, layer, dtype, device));
    layers->push_back(layers_.back());
  }
  register_module("layers", layers);
  norm_ = register_module("norm", std::make_shared<RMSNorm>(config.hidden_size, config.rms_norm_eps, dtype, device));
  rotary_emb_ = register_module(
      "rotary_emb",
      std::make_shared<RotaryEmbedding>(config.rope, config.head_dim, config.max_position_embeddings, device));
}

ModelOutput DecoderModel::forward(const at::Tensor& ids, const ForwardContext& context, bool keep_all) const {
  ModelOutput output;
  at::Tensor hidden = embed_tokens_->forward(ids);
  for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
    if (keep_all) output.hidden_states.push_back(hidden);
    DecoderLayer::Output result = layers_[layer]->forward(hidden, context);
    hidden = std::move(result.hidden);
    if (result.stats.defined())
      output.stats.push_back(
          {str("model.layers.", layer, ".self_attn"), std::move(result.stats), std::move(result.trials)});
  }
  output.hidden = norm_->forward(hidden);
  if (keep_all) output.hidden_states.push_back(output.hidden);
  return output;
}

CausalLM::CausalLM(ModelConfig config, at::ScalarType dtype, at::Device device)
    : torch::nn::Module(str(class_prefix(config.type), "ForCausalLM")), config_(checked(std::move(config))) {
  require_device(device);
  model_ = register_module("model", std::make_shared<DecoderModel>(config_, dtype, device));
  if (!config_.tie_word_embeddings) {
    lm_head_ = register_module(
        "lm_head", std::make_shared<Linear>(config_.hidden_size, config_.vocab_size, /*bias=*/false, dtype, device));
  }
}

ModelOutput CausalLM::forward(const ModelInput& input) {
  const auto describe = [&] {
    return modelopt::str("the forward of ", input.input_ids.numel(), " tokens on ", device());
  };
  return with_device_errors(device(), describe, [&] { return run(input); });
}

ModelOutput CausalLM::run(const ModelInput& input) {
  std::vector<std::int64_t> slots = input.slots;
  if (slots.empty()) {
    slots.resize(input.lengths.size());
    std::iota(slots.begin(), slots.end(), 0);
  }
  const CacheAppend append = input.cache != nullptr ? input.cache->plan_append(slots, input.lengths) : CacheAppend{};
  const Batch batch = describe(input, slots);
  check_ids(input.input_ids, batch.total, config_.vocab_size);
  warn_beyond_context(batch.longest_in_full);

  ForwardContext context;
  context.phase = input.phase;
  context.cache = input.cache;
  context.append = input.cache != nullptr ? &append : nullptr;
  context.layout = layout(batch, context.append, device());
  context.layout.full_lengths = full_lengths(batch, input.phase);
  context.rotary =
      model_->rotary_emb().forward(positions(batch, device()), batch.lengths, batch.prompt_lengths, dtype());

  ModelOutput output =
      model_->forward(input.input_ids.to(device(), /*non_blocking=*/true), context, input.output_hidden_states);
  if (input.logits == LogitRows::kAll) output.logits = logits(output.hidden);
  if (input.logits == LogitRows::kLast)
    output.logits = logits(output.hidden.index_select(0, last_rows(batch, device())));
  if (input.cache != nullptr) input.cache->commit(append);
  return output;
}

at::Tensor CausalLM::logits(const at::Tensor& hidden) const {
  const auto describe = [&] { return modelopt::str("the logits of ", hidden.size(0), " rows on ", device()); };
  return with_device_errors(device(), describe, [&] {
    return lm_head_ ? lm_head_->forward(hidden) : at::linear(hidden, model_->embedding_weight());
  });
}

KVCache CausalLM::make_cache(std::int64_t num_slots, std::int64_t capacity) const {
  const auto describe = [&] {
    return modelopt::str("a KV cache of ", num_slots, " x ", capacity, " tokens on ", device());
  };
  return with_device_errors(device(), describe,
                            [&] { return KVCache(config_, num_slots, capacity, dtype(), device()); });
}

void CausalLM::warn_beyond_context(std::int64_t longest) {
  const bool stretches = config_.rope.type == RopeType::kDynamic;  // made for longer sequences
  if (stretches || longest <= config_.max_position_embeddings || warned_beyond_context_.exchange(true)) return;
  log::warn(str("a sequence has ", longest, " tokens, more than the model's max_position_embeddings of ",
                config_.max_position_embeddings, ": expect worse output"));
}

}  // namespace modelopt::models
