// config.json of a HuggingFace directory, as transformers 4 and 5 write it.
#pragma once

#include <modelopt/models/model_config.h>

#include <filesystem>
#include <string_view>

namespace modelopt::checkpoint {

/// Reads `config.json` of the directory. model_type is llama, mistral, qwen2 or qwen3; what the file leaves out takes
/// the default that transformers has for the type. Throws DataError that names the key, its value and what was
/// expected: for a key that is not understood, a value of the wrong type or out of its domain, and settings that
/// contradict each other.
[[nodiscard]] models::ModelConfig read_model_config(const std::filesystem::path& directory);

/// The same for the text of a config.json; `origin` names it in errors.
[[nodiscard]] models::ModelConfig parse_model_config(std::string_view text, std::string_view origin);

}  // namespace modelopt::checkpoint
