// --token-ids FILE: token ids without a tokenizer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace modelopt::cli {

/// Reads a JSON array of ids (one row) or an array of such arrays. Rows are never empty.
/// Throws DataError with the JSON path for anything else, and for an id outside [0, vocab_size).
[[nodiscard]] std::vector<std::vector<std::int64_t>> read_token_ids(const std::string& path, std::int64_t vocab_size);

}  // namespace modelopt::cli
