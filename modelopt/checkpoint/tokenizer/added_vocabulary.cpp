#include <modelopt/checkpoint/tokenizer/added_vocabulary.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <modelopt/checkpoint/tokenizer/unicode.h>
#include <modelopt/error.h>

namespace modelopt::checkpoint::tokenizer {
namespace {

AddedToken read_token(const JsonNode& node, const Normalizer* normalizer) {
  node.expect_keys({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  const JsonNode content = node.at("content");
  if (content.string().empty()) content.fail("a string that is not empty");
  AddedToken token{.id = node.at("id").integer(),
                   .content = content.string(),
                   .normalized_content = content.string(),
                   .single_word = node.at("single_word").boolean(),
                   .lstrip = node.at("lstrip").boolean(),
                   .rstrip = node.at("rstrip").boolean(),
                   .normalized = node.at("normalized").boolean(),
                   .special = node.at("special").boolean()};
  if (token.normalized && normalizer != nullptr) {
    RegexScratch scratch;
    normalizer->apply(token.normalized_content, scratch);
    if (token.normalized_content.empty()) content.fail("something that the normalizer leaves something of");
  }
  return token;
}

bool stands_alone(std::string_view text, const Span& span) {
  const bool word_before = span.begin > 0 && is_word(code_point_at(text, previous_offset(text, span.begin)).value);
  const bool word_behind = span.end < text.size() && is_word(code_point_at(text, span.end).value);
  return !word_before && !word_behind;
}

}  // namespace

bool Trie::insert(std::string_view text, std::size_t value) {
  begins_[static_cast<std::uint8_t>(text[0])] = true;
  std::size_t node = 0;
  for (const char c : text) {
    auto& children = nodes_[node].children;
    const auto child =
        std::find_if(children.begin(), children.end(), [&](const auto& entry) { return entry.first == c; });
    if (child != children.end()) {
      node = child->second;
    } else {
      children.emplace_back(c, nodes_.size());
      node = nodes_.size();
      nodes_.emplace_back();
    }
  }
  return !std::exchange(nodes_[node].value, value);
}

std::optional<Trie::Match> Trie::longest_prefix(std::string_view text) const {
  std::optional<Match> longest;
  std::size_t node = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto& children = nodes_[node].children;
    const auto child =
        std::find_if(children.begin(), children.end(), [&](const auto& entry) { return entry.first == text[i]; });
    if (child == children.end()) break;
    node = child->second;
    if (nodes_[node].value) longest = {i + 1, *nodes_[node].value};
  }
  return longest;
}

std::size_t Trie::next_candidate(std::string_view text, std::size_t offset) const {
  while (offset < text.size() && !begins_[static_cast<std::uint8_t>(text[offset])]) ++offset;
  return offset;
}

AddedVocabulary::AddedVocabulary(const JsonNode& node, const StringMap<std::int32_t>& vocab,
                                 const Normalizer* normalizer) {
  std::unordered_map<std::int32_t, std::string_view> holders;
  holders.reserve(vocab.size());
  for (const auto& [token, id] : vocab) holders.emplace(id, token);
  std::unordered_set<std::string> contents;
  std::unordered_set<std::int32_t> ids;
  for (std::size_t i = 0; i < node.size(); ++i) {
    const JsonNode entry = node.at(i);
    AddedToken token = read_token(entry, normalizer);
    MODELOPT_CHECK(contents.insert(token.content).second, DataError, entry.where(), ": \"", token.content,
                   "\" is added twice");
    MODELOPT_CHECK(ids.insert(token.id).second, DataError, entry.where(), ": id ", token.id,
                   " is given to two added tokens");
    const auto known = vocab.find(token.content);
    MODELOPT_CHECK(known == vocab.end() || known->second == token.id, DataError, entry.where(), ": \"", token.content,
                   "\" has id ", token.id, ", but ", known == vocab.end() ? 0 : known->second, " in model.vocab");
    const auto holder = holders.find(token.id);
    MODELOPT_CHECK(holder == holders.end() || holder->second == token.content, DataError, entry.where(), ": id ",
                   token.id, " of \"", token.content, "\" belongs to \"", holder == holders.end() ? "" : holder->second,
                   "\" in model.vocab");
    const bool is_new = (token.normalized ? normalized_ : raw_).insert(token.normalized_content, tokens_.size());
    MODELOPT_CHECK(is_new, DataError, entry.where(), ": \"", token.content, "\" normalizes to \"",
                   token.normalized_content, "\" as another added token does");
    tokens_.push_back(std::move(token));
  }
}

std::vector<Section> AddedVocabulary::split(std::string_view text, const Trie& trie) const {
  std::vector<Section> sections;
  std::size_t done = 0;  // up to here the sections reach
  const auto add = [&](Span span, std::optional<std::int32_t> token) {
    if (span.begin < span.end) sections.push_back({span, token});
  };
  for (std::size_t at = trie.next_candidate(text, 0); at < text.size(); at = trie.next_candidate(text, at)) {
    const auto match = trie.longest_prefix(text.substr(at));
    if (!match) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[match->value];
    Span span{at, at + match->length};
    at = span.end;  // also behind a match that is then discarded
    if (token.single_word && !stands_alone(text, span)) continue;
    if (token.lstrip) {
      while (span.begin > done && is_white_space(code_point_at(text, previous_offset(text, span.begin)).value))
        span.begin = previous_offset(text, span.begin);
    }
    if (token.rstrip) {
      while (span.end < text.size() && is_white_space(code_point_at(text, span.end).value))
        span.end = code_point_at(text, span.end).end;
    }
    add({done, span.begin}, std::nullopt);
    add(span, token.id);
    done = span.end;
  }
  add({done, text.size()}, std::nullopt);
  return sections;
}

}  // namespace modelopt::checkpoint::tokenizer
