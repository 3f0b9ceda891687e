#include <modelopt/checkpoint/generation_config.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include <modelopt/checkpoint/json_object.h>
#include <modelopt/checkpoint/model_directory.h>
#include <modelopt/error.h>
#include <modelopt/util/file.h>
#include <modelopt/util/ordered_json.h>

namespace modelopt::checkpoint {
namespace {

using nlohmann::ordered_json;

// Settings of transformers that would change the generated text and are not implemented, with the values that do not.
void expect_neutral_settings(JsonObject& root) {
  for (const std::string_view key : {"num_beams", "num_beam_groups", "num_return_sequences"})
    root.expect_neutral(key, 1);
  for (const std::string_view key : {"typical_p", "repetition_penalty", "encoder_repetition_penalty", "guidance_scale"})
    root.expect_neutral(key, 1.0);
  for (const std::string_view key : {"min_p", "epsilon_cutoff", "eta_cutoff", "diversity_penalty", "penalty_alpha"})
    root.expect_neutral(key, 0.0);
  for (const std::string_view key :
       {"no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length", "min_new_tokens"})
    root.expect_neutral(key, 0);
  for (const std::string_view key : {"token_healing", "remove_invalid_values", "use_mtp"})
    root.expect_neutral(key, false);
  for (const std::string_view key :
       {"bad_words_ids", "begin_suppress_tokens", "constraints", "dola_layers", "exponential_decay_length_penalty",
        "force_words_ids", "forced_bos_token_id", "forced_eos_token_id", "max_time", "sequence_bias", "stop_strings",
        "suppress_tokens", "top_h", "watermarking_config"})
    root.expect_neutral(key, nullptr);
}

// Bookkeeping, caches, outputs, assisted generation (which changes speed alone) and what only beam search looks at.
void ignore_irrelevant_keys(JsonObject& root) {
  root.ignore({"_commit_hash",
               "_from_model_config",
               "assistant_confidence_threshold",
               "assistant_early_exit",
               "assistant_ensemble_weight",
               "assistant_lookbehind",
               "cache_config",
               "cache_implementation",
               "compile_config",
               "continuous_batching_config",
               "decoder_start_token_id",
               "disable_compile",
               "early_stopping",
               "is_assistant",
               "length_penalty",
               "low_memory",
               "max_cache_len",
               "max_matching_ngram_size",
               "num_assistant_tokens",
               "num_assistant_tokens_schedule",
               "output_attentions",
               "output_hidden_states",
               "output_logits",
               "output_scores",
               "prefill_chunk_size",
               "prompt_lookup_num_tokens",
               "renormalize_logits",
               "return_dict_in_generate",
               "speculation_type",
               "target_lookbehind",
               "transformers_version",
               "use_cache"});
}

}  // namespace

GenerationConfig read_generation_config(const std::filesystem::path& directory, const models::ModelConfig& model) {
  constexpr std::string_view kFileName = "generation_config.json";
  const auto path = find_model_file(directory, kFileName);
  return parse_generation_config(path ? read_file(*path) : "{}", (directory / kFileName).string(), model);
}

GenerationConfig parse_generation_config(std::string_view text, std::string_view origin,
                                         const models::ModelConfig& model) {
  const ordered_json json = parse_ordered_json(text, origin);
  JsonObject root(json, std::string(origin));
  const IntegerRange ids{.least = 0, .most = model.vocab_size - 1};

  GenerationConfig config;
  config.temperature = root.optional_number("temperature", NumberRange::kNonNegative).value_or(config.temperature);
  config.top_k = root.optional_integer("top_k", {}).value_or(config.top_k);
  config.top_p = root.optional_number("top_p", NumberRange::kPositive).value_or(config.top_p);
  if (config.top_p > 1) root.fail("top_p", "a number > 0 and <= 1");
  config.eos_token_ids = root.optional_integers("eos_token_id", ids).value_or(model.eos_token_ids);
  config.bos_token_id = root.optional_integer("bos_token_id", ids);
  if (!config.bos_token_id) config.bos_token_id = model.bos_token_id;
  config.pad_token_id = root.optional_integer("pad_token_id", {});
  if (!config.pad_token_id) config.pad_token_id = model.pad_token_id;
  expect_neutral_settings(root);
  ignore_irrelevant_keys(root);
  root.ignore({"do_sample", "max_new_tokens", "max_length"});
  root.expect_no_other_keys();
  return config;
}

}  // namespace modelopt::checkpoint
