// Decoder language models of model_type llama, mistral, qwen2 and qwen3.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <modelopt/attention/attention_call.h>
#include <modelopt/attention/attention_interface.h>
#include <modelopt/models/decoder_layer.h>
#include <modelopt/models/kv_cache.h>
#include <modelopt/models/linear.h>
#include <modelopt/models/model_config.h>
#include <modelopt/models/rms_norm.h>
#include <modelopt/models/rotary_embedding.h>

namespace modelopt::models {

using attention::Phase;

/// The rows whose logits a forward computes. All rows of a long input are large (8192 x 49152 in fp32: 1.6 GB); to go
/// in pieces, take kNone and pass slices of `ModelOutput::hidden` to CausalLM::logits.
enum class LogitRows { kNone, kLast, kAll };

/// One packed batch: the tokens of all sequences one after another, without padding.
struct ModelInput {
  at::Tensor input_ids;               ///< int64 [total], on the CPU or the model's device
  std::vector<std::int64_t> lengths;  ///< [B] new tokens of each sequence, >= 1; they sum to total
  Phase phase = Phase::kPrefill;      ///< holds for the whole call; N:M sparsity is active in prefill only
  LogitRows logits = LogitRows::kAll;
  KVCache* cache = nullptr;         ///< null: the sequences start here and nothing is kept
  std::vector<std::int64_t> slots;  ///< [B] cache slot of each sequence; empty: 0 .. B-1
  /// [B] length of the whole prompt that this call is a part or a continuation of; fixes RoPE `dynamic`. Empty: earlier
  /// (cached) plus new tokens, which is right for a prompt that is read at once.
  std::vector<std::int64_t> prompt_lengths;
  bool output_hidden_states = false;
};

/// Counters of one attention module whose slot asks for statistics.
struct ModuleStats {
  std::string module;  ///< e.g. "model.layers.3.self_attn"
  at::Tensor stats;    ///< int64 [B, heads, 4] = blocks visible, blocks skipped, pairs visible, pairs attended
  attention::TrialCounts trials;
};

struct ModelOutput {
  at::Tensor logits;  ///< [B, vocab] (kLast) or [total, vocab] (kAll) in the model's dtype; undefined for kNone
  at::Tensor hidden;  ///< [total, hidden_size] after the final norm
  std::vector<ModuleStats> stats;
  /// With output_hidden_states: num_hidden_layers + 1 of [total, hidden_size]: the embeddings, then the output of each
  /// layer, the last one after the final norm (as transformers returns them).
  std::vector<at::Tensor> hidden_states;
};

/// The part that HuggingFace registers as `model`: embed_tokens, layers, norm (and rotary_emb, without parameters).
class DecoderModel : public torch::nn::Module {
 public:
  DecoderModel(const ModelConfig& config, at::ScalarType dtype, at::Device device);

  /// Runs the layers on ids [total]; `keep_all` fills ModelOutput::hidden_states. Logits stay undefined.
  [[nodiscard]] ModelOutput forward(const at::Tensor& ids, const ForwardContext& context, bool keep_all) const;

  [[nodiscard]] const RotaryEmbedding& rotary_emb() const { return *rotary_emb_; }
  [[nodiscard]] const at::Tensor& embedding_weight() const { return embed_tokens_->weight(); }

 private:
  std::shared_ptr<Embedding> embed_tokens_;
  std::vector<std::shared_ptr<DecoderLayer>> layers_;
  std::shared_ptr<RMSNorm> norm_;
  std::shared_ptr<RotaryEmbedding> rotary_emb_;
};

/// A model with its head. Hold it in a std::shared_ptr (torch::nn::Module::named_modules demands one).
///
/// Names of modules and parameters are HuggingFace's, so that the keys of named_parameters() are the tensor names of a
/// checkpoint; `lm_head.weight` is absent where the embeddings are tied. Parameters do not require gradients and are
/// placeholders of one element (linear.h): a loader puts the checkpoint's tensors in place with
/// `parameter.set_data(tensor)`, so that weights are in memory once, or mapped. Until then every output is NaN.
class CausalLM : public torch::nn::Module {
 public:
  /// Throws InvalidArgument for a config that describes no model: sizes below 1, heads that do not divide, a
  /// sliding_window list of the wrong length. Throws Unsupported for a device that is not there.
  explicit CausalLM(ModelConfig config, at::ScalarType dtype = at::kFloat, at::Device device = at::kCPU);

  /// Throws InvalidArgument for ids out of the vocabulary, lengths that do not add up, and a cache that is too small;
  /// the cache is then unchanged. Positions beyond max_position_embeddings are computed as transformers does, with one
  /// warning in the log per model (none with RoPE `dynamic`). Does not disable gradients by itself. On a GPU it returns
  /// while the work is still going on (modelopt/util/device.h waits for it); with ids on the CPU it never waits itself.
  /// What fails on the GPU is an Error that says what was asked, Unsupported where memory does not suffice.
  [[nodiscard]] ModelOutput forward(const ModelInput& input);

  /// Rows [n, hidden_size] of ModelOutput::hidden -> logits [n, vocab], in the model's dtype.
  [[nodiscard]] at::Tensor logits(const at::Tensor& hidden) const;

  [[nodiscard]] const ModelConfig& config() const { return config_; }
  [[nodiscard]] at::ScalarType dtype() const { return model_->embedding_weight().scalar_type(); }
  [[nodiscard]] at::Device device() const { return model_->embedding_weight().device(); }
  /// A cache of this model's shape, dtype and device.
  [[nodiscard]] KVCache make_cache(std::int64_t num_slots, std::int64_t capacity) const;

 private:
  [[nodiscard]] ModelOutput run(const ModelInput& input);
  void warn_beyond_context(std::int64_t longest);

  ModelConfig config_;
  std::shared_ptr<DecoderModel> model_;
  std::shared_ptr<Linear> lm_head_;  ///< null where tied
  std::atomic<bool> warned_beyond_context_ = false;
};

}  // namespace modelopt::models
