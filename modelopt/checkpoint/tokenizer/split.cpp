#include <modelopt/checkpoint/tokenizer/split.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>
#include <utility>

namespace modelopt::checkpoint::tokenizer {
namespace {

// A match, or what lies between two. Matches may be empty.
struct Piece {
  Span span;
  bool is_match;
};

void cut(std::size_t length, const std::vector<Span>& matches, bool invert, std::vector<Piece>& pieces) {
  pieces.clear();
  std::size_t end = 0;
  for (const Span& match : matches) {
    if (match.begin != end) pieces.push_back({{end, match.begin}, invert});
    pieces.push_back({match, !invert});
    end = match.end;
  }
  if (end != length) pieces.push_back({{end, length}, invert});
}

// Joins a piece to the one before it where `joins(is_match, previous_is_match)` says so.
template <typename Joins>
void join(std::vector<Piece>& pieces, const Joins& joins) {
  std::size_t kept = 0;
  bool previous = false;
  for (const Piece& piece : pieces) {
    if (kept > 0 && joins(piece.is_match, previous)) {
      Span& last = pieces[kept - 1].span;
      last = {std::min(last.begin, piece.span.begin), std::max(last.end, piece.span.end)};
    } else {
      pieces[kept++].span = piece.span;
    }
    previous = piece.is_match;
  }
  pieces.resize(kept);
}

void merge(std::vector<Piece>& pieces, SplitBehavior behavior) {
  const auto begins_matches = [](bool is_match, bool previous) { return is_match && !previous; };
  switch (behavior) {
    case SplitBehavior::kIsolated: return;
    case SplitBehavior::kRemoved: std::erase_if(pieces, [](const Piece& piece) { return piece.is_match; }); return;
    case SplitBehavior::kContiguous:
      join(pieces, [](bool is_match, bool previous) { return is_match == previous; });
      return;
    case SplitBehavior::kMergedWithPrevious: join(pieces, begins_matches); return;
    case SplitBehavior::kMergedWithNext:
      std::reverse(pieces.begin(), pieces.end());
      join(pieces, begins_matches);
      std::reverse(pieces.begin(), pieces.end());
      return;
  }
}

}  // namespace

SplitBehavior read_split_behavior(const JsonNode& node) {
  static constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> kNames = {{
      {"Removed", SplitBehavior::kRemoved},
      {"Isolated", SplitBehavior::kIsolated},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous},
  }};
  for (const auto& [name, behavior] : kNames)
    if (node.string() == name) return behavior;
  node.fail("Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

Split::Split(Pattern pattern, SplitBehavior behavior, bool invert)
    : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

void Split::apply(Words& words, RegexScratch& scratch) const {
  std::vector<Span> result;
  std::vector<Span> matches;
  std::vector<Piece> pieces;
  result.reserve(words.spans.size());
  for (const Span& word : words.spans) {
    pattern_.find_all(word.of(words.text), scratch, matches);
    cut(word.end - word.begin, matches, invert_, pieces);
    merge(pieces, behavior_);
    for (const Piece& piece : pieces)
      if (piece.span.begin != piece.span.end)
        result.push_back({word.begin + piece.span.begin, word.begin + piece.span.end});
  }
  words.spans = std::move(result);
}

}  // namespace modelopt::checkpoint::tokenizer
