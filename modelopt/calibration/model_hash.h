// Telling models and tokenizers apart by their files.
#pragma once

#include <filesystem>
#include <string>

namespace modelopt::calibration {

/// Changes with any byte of the configuration, the weights or the tokenizer of a model directory: 64 hexadecimal
/// digits. It guards against mistakes, not against malice: of the weights, which may be many gigabytes, a fast 512-bit
/// checksum goes into the SHA-256. Throws DataError for what cannot be read.
[[nodiscard]] std::string model_hash(const std::filesystem::path& directory);

}  // namespace modelopt::calibration
