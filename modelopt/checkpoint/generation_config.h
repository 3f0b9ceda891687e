// generation_config.json of a HuggingFace directory.
#pragma once

#include <modelopt/models/model_config.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

namespace modelopt::checkpoint {

/// How the model's authors want text to be sampled and ended. Defaults are those of transformers.
struct GenerationConfig {
  double temperature = 1.0;
  std::int64_t top_k = 50;  ///< 0: off
  double top_p = 1.0;       ///< 1: off
  std::vector<std::int64_t> eos_token_ids;
  std::optional<std::int64_t> bos_token_id;
  std::optional<std::int64_t> pad_token_id;
};

/// Reads `generation_config.json` of the directory; without one, the defaults. Token ids it leaves out come from
/// `model`. Whether to sample and how much to write is the caller's choice: `do_sample`, `max_new_tokens` and
/// `max_length` are not taken from the file. Throws DataError for an unknown key, a wrong value, and for a setting that
/// would change the generated text but is not implemented (repetition_penalty, num_beams, …) unless it has its neutral
/// value.
[[nodiscard]] GenerationConfig read_generation_config(const std::filesystem::path& directory,
                                                      const models::ModelConfig& model);

/// The same for the text of a generation_config.json; `origin` names it in errors.
[[nodiscard]] GenerationConfig parse_generation_config(std::string_view text, std::string_view origin,
                                                       const models::ModelConfig& model);

}  // namespace modelopt::checkpoint
