// The architecture of a decoder model, as config.json of a HuggingFace directory describes it, in one resolved form.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace modelopt::models {

enum class ModelType { kLlama, kMistral, kQwen2, kQwen3 };

/// Prefix of HuggingFace's class names, e.g. "Qwen2" of "Qwen2Attention".
[[nodiscard]] constexpr std::string_view class_prefix(ModelType type) {
  switch (type) {
    case ModelType::kLlama:
      return "Llama";
    case ModelType::kMistral:
      return "Mistral";
    case ModelType::kQwen2:
      return "Qwen2";
    case ModelType::kQwen3:
      return "Qwen3";
  }
  return "";
}

enum class RopeType { kDefault, kLinear, kDynamic, kLlama3, kYarn };

/// Rotary embedding, names of transformers' `rope_parameters`. Each field beyond `theta` names its types.
struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000.0;
  double factor = 1.0;                                ///< linear, dynamic, llama3, yarn
  std::int64_t original_max_position_embeddings = 0;  ///< llama3, yarn; resolved by the reader
  double low_freq_factor = 1.0;                       ///< llama3
  double high_freq_factor = 4.0;                      ///< llama3
  double beta_fast = 32.0;                            ///< yarn
  double beta_slow = 1.0;                             ///< yarn
  std::optional<double> attention_factor;  ///< yarn; absent: 0.1 ln(factor) + 1 (or from mscale, mscale_all_dim)
  std::optional<double> mscale;            ///< yarn
  std::optional<double> mscale_all_dim;    ///< yarn
  bool truncate = true;                    ///< yarn: round the correction range to whole dimensions

  friend bool operator==(const RopeConfig&, const RopeConfig&) = default;
};

/// Resolved: nothing here is optional in the file sense any more, the reader has filled in the type's defaults.
struct ModelConfig {
  ModelType type = ModelType::kLlama;
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  RopeConfig rope;
  bool tie_word_embeddings = false;
  bool attention_qkv_bias = false;  ///< of q_proj, k_proj, v_proj (qwen2: always; llama, qwen3: `attention_bias`)
  bool attention_out_bias = false;  ///< bias of o_proj (llama, qwen3: `attention_bias`)
  bool mlp_bias = false;
  bool qk_norm = false;                          ///< RMS norm over head_dim of q and k before RoPE (qwen3)
  std::vector<std::int64_t> sliding_window;      ///< [num_hidden_layers]; 0 = full attention
  at::ScalarType dtype = at::ScalarType::Float;  ///< as the file says; the weights' own may be another
  std::vector<std::int64_t> eos_token_ids;
  std::optional<std::int64_t> bos_token_id;
  std::optional<std::int64_t> pad_token_id;

  friend bool operator==(const ModelConfig&, const ModelConfig&) = default;
};

}  // namespace modelopt::models
