// The "pre_tokenizer" of a tokenizer.json: cuts text into the words that the model then cuts into tokens.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <modelopt/checkpoint/tokenizer/json_node.h>
#include <modelopt/checkpoint/tokenizer/regex.h>

namespace modelopt::checkpoint::tokenizer {

/// Text and its words, none of them empty, in order. A step may drop parts of the text and may rewrite all of it.
struct Words {
  std::string text;
  std::vector<Span> spans;
  bool at_beginning;  ///< the text stands at the beginning of the whole input
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  /// Cuts each of the words further. The text is valid UTF-8 before and after.
  virtual void apply(Words& words, RegexScratch& scratch) const = 0;
};

/// Reads ByteLevel, Digits, Metaspace, Punctuation, Split, Whitespace, WhitespaceSplit, or a Sequence of them. Throws
/// DataError for any other.
[[nodiscard]] std::unique_ptr<const PreTokenizer> read_pre_tokenizer(const JsonNode& node);

}  // namespace modelopt::checkpoint::tokenizer
