// What a normalizer, pre-tokenizer or decoder looks for.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <modelopt/checkpoint/tokenizer/json_node.h>
#include <modelopt/checkpoint/tokenizer/regex.h>

namespace modelopt::checkpoint::tokenizer {

/// A literal string or a regular expression.
class Pattern {
 public:
  /// Reads {"String": …} or {"Regex": …}. Throws DataError for anything else, and for an empty pattern.
  explicit Pattern(const JsonNode& node);
  explicit Pattern(std::string literal) : pattern_(std::move(literal)) {}
  explicit Pattern(Regex regex) : pattern_(std::move(regex)) {}

  /// All matches from left to right that do not overlap. `text` is valid UTF-8.
  void find_all(std::string_view text, RegexScratch& scratch, std::vector<Span>& matches) const;

  /// `text` with every match replaced by `content` as it is.
  [[nodiscard]] std::string replace_all(std::string_view text, std::string_view content, RegexScratch& scratch) const;

 private:
  std::variant<std::string, Regex> pattern_;
};

}  // namespace modelopt::checkpoint::tokenizer
