// The "added_tokens" of a tokenizer.json: tokens that are found in the text as they are, before the model sees it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <modelopt/checkpoint/tokenizer/bpe_model.h>
#include <modelopt/checkpoint/tokenizer/json_node.h>
#include <modelopt/checkpoint/tokenizer/normalizer.h>
#include <modelopt/checkpoint/tokenizer/regex.h>

namespace modelopt::checkpoint::tokenizer {

struct AddedToken {
  std::int32_t id;
  std::string content;
  std::string normalized_content;  ///< what is looked for in normalized text, and what decoding sees
  bool single_word;                ///< only where no word character touches it
  bool lstrip;                     ///< takes the white space on its left with it
  bool rstrip;                     ///< takes the white space on its right with it
  bool normalized;                 ///< looked for in the normalized text instead of the raw one
  bool special;                    ///< left out by decoding on demand
};

/// Part of a text: an added token, or what lies between two.
struct Section {
  Span span;
  std::optional<std::int32_t> token;  ///< id
};

/// Finds the longest of several strings that begins somewhere.
class Trie {
 public:
  /// False if it has the string already.
  bool insert(std::string_view text, std::size_t value);
  struct Match {
    std::size_t length;
    std::size_t value;
  };
  /// The longest string that `text` begins with.
  [[nodiscard]] std::optional<Match> longest_prefix(std::string_view text) const;
  /// The first place at or behind `offset` where a string could begin, or the end of the text.
  [[nodiscard]] std::size_t next_candidate(std::string_view text, std::size_t offset) const;

 private:
  struct Node {
    std::vector<std::pair<char, std::size_t>> children;
    std::optional<std::size_t> value;
  };
  std::vector<Node> nodes_{1};
  std::array<bool, 256> begins_{};  // whether a string begins with this byte
};

class AddedVocabulary {
 public:
  /// Throws DataError for empty content, and for an id or content that stands twice or disagrees with the vocabulary.
  AddedVocabulary(const JsonNode& node, const StringMap<std::int32_t>& vocab, const Normalizer* normalizer);

  [[nodiscard]] const std::vector<AddedToken>& tokens() const { return tokens_; }

  /// Cuts raw text at the tokens with normalized = false, leftmost first, then longest. No section is empty.
  [[nodiscard]] std::vector<Section> split_raw(std::string_view text) const { return split(text, raw_); }
  /// Cuts normalized text at the others.
  [[nodiscard]] std::vector<Section> split_normalized(std::string_view text) const { return split(text, normalized_); }

 private:
  [[nodiscard]] std::vector<Section> split(std::string_view text, const Trie& trie) const;

  std::vector<AddedToken> tokens_;
  Trie raw_;  // values are indices of tokens_
  Trie normalized_;
};

}  // namespace modelopt::checkpoint::tokenizer
