// The "normalizer" of a tokenizer.json: rewrites the text between added tokens before it is cut into words.
#pragma once

#include <memory>
#include <string>

#include <modelopt/checkpoint/tokenizer/json_node.h>
#include <modelopt/checkpoint/tokenizer/regex.h>

namespace modelopt::checkpoint::tokenizer {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  /// Rewrites valid UTF-8 in place.
  virtual void apply(std::string& text, RegexScratch& scratch) const = 0;
};

/// Reads NFC, NFD, NFKC, NFKD, Prepend, Replace, or a Sequence of them. Throws DataError for any other.
[[nodiscard]] std::unique_ptr<const Normalizer> read_normalizer(const JsonNode& node);

}  // namespace modelopt::checkpoint::tokenizer
