#include <modelopt/checkpoint/tokenizer/bpe_model.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

#include <modelopt/checkpoint/tokenizer/unicode.h>
#include <modelopt/error.h>

namespace modelopt::checkpoint::tokenizer {
namespace {

// Longer words are hardly ever seen twice.
constexpr std::size_t kLongestRemembered = 256;

// Orders a heap of candidates: the lowest rank on top, of equal ranks the leftmost.
constexpr auto kAfter = [](const auto& a, const auto& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
};

std::string byte_token(int byte) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  const auto value = static_cast<std::size_t>(byte);
  return {'<', '0', 'x', kDigits[value >> 4], kDigits[value & 15], '>'};
}

// ["a", "b"] or, in older files, "a b".
std::pair<std::string_view, std::string_view> read_pair(const JsonNode& node) {
  if (node.value().is_array()) {
    if (node.size() != 2) node.fail("two tokens");
    return {node.at(std::size_t{0}).string(), node.at(std::size_t{1}).string()};
  }
  if (!node.value().is_string()) node.fail("two tokens, as an array or with a blank between them");
  const std::string_view text = node.string();
  const std::size_t blank = text.find(' ');
  if (blank == std::string_view::npos || text.find(' ', blank + 1) != std::string_view::npos)
    node.fail("two tokens with one blank between them");
  return {text.substr(0, blank), text.substr(blank + 1)};
}

}  // namespace

BpeModel::BpeModel(const JsonNode& node) {
  const JsonNode type = node.at("type");
  if (type.string() != "BPE") type.fail("BPE");
  node.expect_keys({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                    "byte_fallback", "ignore_merges", "vocab", "merges"});
  if (const auto dropout = node.find("dropout"); dropout && dropout->value() != 0)
    dropout->fail("null: dropout is not supported");
  for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (const auto affix = node.find(key); affix && !affix->string().empty())
      affix->fail("null: affixes are not supported");
  read_vocab(node.at("vocab"));
  read_merges(node.at("merges"));
  read_unknown(node);
  ignore_merges_ = node.flag("ignore_merges", false);
}

void BpeModel::read_vocab(const JsonNode& node) {
  if (!node.value().is_object()) node.fail("an object");
  std::unordered_map<std::int32_t, std::string_view> taken;
  vocab_.reserve(node.value().size());
  taken.reserve(node.value().size());
  for (const auto& [token, value] : node.value().items()) {
    const std::int32_t id = node.member(token, value).integer();
    const auto [holder, is_new] = taken.emplace(id, token);
    MODELOPT_CHECK(is_new, DataError, node.where(), ": id ", id, " belongs to both \"", holder->second, "\" and \"",
                   token, "\"");
    vocab_.emplace(token, id);
    if (token.empty()) continue;
    if (const CodePoint first = code_point_at(token, 0); first.end == token.size())
      characters_.emplace(first.value, id);
  }
}

void BpeModel::read_merges(const JsonNode& node) {
  const std::size_t count = node.size();
  merges_.reserve(count);
  std::string merged;
  for (std::size_t i = 0; i < count; ++i) {
    const JsonNode entry = node.at(i);
    // The heading of a merges.txt, which older files carried over
    if (entry.value().is_string() && entry.string().starts_with("#version")) continue;
    const auto [left, right] = read_pair(entry);
    const auto id_of = [&](std::string_view token) {
      const auto found = vocab_.find(token);
      MODELOPT_CHECK(found != vocab_.end(), DataError, entry.where(), ": token \"", token,
                     "\" is not in the vocabulary");
      return found->second;
    };
    merged.assign(left).append(right);
    const bool is_new = merges_.insert(
        {.left = id_of(left), .right = id_of(right), .rank = static_cast<std::int32_t>(i), .merged = id_of(merged)});
    MODELOPT_CHECK(is_new, DataError, entry.where(), ": the merge of \"", left, "\" and \"", right, "\" stands twice");
  }
}

void BpeModel::read_unknown(const JsonNode& node) {
  if (const auto token = node.find("unk_token")) {
    const auto found = vocab_.find(token->string());
    if (found == vocab_.end()) token->fail("a token of the vocabulary");
    unknown_ = found->second;
  }
  fuse_unknown_ = node.flag("fuse_unk", false);
  byte_fallback_ = node.flag("byte_fallback", false);
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = vocab_.find(byte_token(byte));
    byte_tokens_[static_cast<std::size_t>(byte)] = found == vocab_.end() ? -1 : found->second;
  }
}

void BpeModel::encode(std::string_view word, Scratch& scratch, std::vector<std::int64_t>& ids) const {
  if (const auto known = scratch.seen.find(word); known != scratch.seen.end()) {
    const auto [begin, count] = known->second;
    for (std::size_t i = 0; i < count; ++i) ids.push_back(ids[begin + i]);
    return;
  }
  const std::size_t begin = ids.size();
  const auto whole = ignore_merges_ ? vocab_.find(word) : vocab_.end();
  if (whole != vocab_.end()) {
    ids.push_back(whole->second);
  } else {
    MODELOPT_CHECK(word.size() <= static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()), DataError,
                   "a word of ", word.size(), " bytes, expected at most 2147483647");
    split_into_symbols(word, scratch);
    merge_symbols(scratch);
    for (const Scratch::Symbol& symbol : scratch.symbols)
      if (symbol.alive) ids.push_back(symbol.id);
  }
  if (word.size() <= kLongestRemembered) scratch.seen.emplace(word, Scratch::TokenRange{begin, ids.size() - begin});
}

void BpeModel::split_into_symbols(std::string_view word, Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  symbols.clear();
  const auto add = [&](std::int32_t id) {
    const auto index = static_cast<std::int32_t>(symbols.size());
    symbols.push_back({.id = id, .previous = index - 1, .next = index + 1, .alive = true});
  };
  // An unknown token waits, to be fused with those that follow. Byte tokens overtake it, as in the reference.
  bool waiting = false;
  for (std::size_t offset = 0; offset < word.size();) {
    const CodePoint character = code_point_at(word, offset);
    const std::string_view bytes = word.substr(offset, character.end - offset);
    offset = character.end;
    if (const auto known = characters_.find(character.value); known != characters_.end()) {
      if (std::exchange(waiting, false)) add(*unknown_);
      add(known->second);
      continue;
    }
    const auto token_of = [&](char byte) { return byte_tokens_[static_cast<std::uint8_t>(byte)]; };
    if (byte_fallback_ && std::all_of(bytes.begin(), bytes.end(), [&](char byte) { return token_of(byte) >= 0; })) {
      for (const char byte : bytes) add(token_of(byte));
    } else if (unknown_) {
      if (waiting && !fuse_unknown_) add(*unknown_);
      waiting = true;
    }  // without an unknown token the character is lost, as in the reference
  }
  if (waiting) add(*unknown_);
  if (!symbols.empty()) symbols.back().next = -1;
}

void BpeModel::push_candidate(Scratch& scratch, std::int32_t left) const {
  const Scratch::Symbol& symbol = scratch.symbols[static_cast<std::size_t>(left)];
  if (symbol.next < 0) return;
  const MergeTable::Merge* merge = merges_.find(symbol.id, scratch.symbols[static_cast<std::size_t>(symbol.next)].id);
  if (merge == nullptr) return;
  scratch.queue.push_back({.rank = merge->rank, .position = left, .merged = merge->merged});
}

void BpeModel::merge_symbols(Scratch& scratch) const {
  auto& [symbols, queue, seen] = scratch;
  queue.clear();
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) push_candidate(scratch, static_cast<std::int32_t>(i));
  std::make_heap(queue.begin(), queue.end(), kAfter);
  const auto push = [&](std::int32_t left) {
    const std::size_t size = queue.size();
    push_candidate(scratch, left);
    if (queue.size() != size) std::push_heap(queue.begin(), queue.end(), kAfter);
  };
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), kAfter);
    const Scratch::Candidate top = queue.back();
    queue.pop_back();
    Scratch::Symbol& left = symbols[static_cast<std::size_t>(top.position)];
    if (!left.alive || left.next < 0) continue;
    Scratch::Symbol& right = symbols[static_cast<std::size_t>(left.next)];
    // An earlier merge may have changed the pair since the candidate was queued.
    const MergeTable::Merge* merge = merges_.find(left.id, right.id);
    if (merge == nullptr || merge->merged != top.merged) continue;
    left.id = top.merged;
    left.next = right.next;
    right.alive = false;
    if (right.next >= 0) symbols[static_cast<std::size_t>(right.next)].previous = top.position;
    if (left.previous >= 0) push(left.previous);
    push(top.position);
  }
}

}  // namespace modelopt::checkpoint::tokenizer
