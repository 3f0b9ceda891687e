#include <modelopt/checkpoint/tokenizer/pattern.h>

#include <utility>

namespace modelopt::checkpoint::tokenizer {
namespace {

std::variant<std::string, Regex> read_pattern(const JsonNode& node) {
  node.expect_keys({"String", "Regex"});
  const auto literal = node.find("String");
  const auto regex = node.find("Regex");
  if (literal.has_value() == regex.has_value()) node.fail("either \"String\" or \"Regex\"");
  if (regex) return Regex(regex->string(), regex->where());
  if (literal->string().empty()) literal->fail("a string that is not empty");
  return literal->string();
}

}  // namespace

Pattern::Pattern(const JsonNode& node) : pattern_(read_pattern(node)) {}

void Pattern::find_all(std::string_view text, RegexScratch& scratch, std::vector<Span>& matches) const {
  if (const auto* regex = std::get_if<Regex>(&pattern_)) return regex->find_all(text, scratch, matches);
  matches.clear();
  const auto& literal = std::get<std::string>(pattern_);
  for (std::size_t at = text.find(literal); at != std::string_view::npos; at = text.find(literal, at + literal.size()))
    matches.push_back({at, at + literal.size()});
}

std::string Pattern::replace_all(std::string_view text, std::string_view content, RegexScratch& scratch) const {
  std::vector<Span> matches;
  find_all(text, scratch, matches);
  std::string result;
  std::size_t copied = 0;
  for (const Span& match : matches) {
    result += text.substr(copied, match.begin - copied);
    result += content;
    copied = match.end;
  }
  result += text.substr(copied);
  return result;
}

}  // namespace modelopt::checkpoint::tokenizer
