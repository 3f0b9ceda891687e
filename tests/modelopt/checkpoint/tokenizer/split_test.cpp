#include <modelopt/checkpoint/tokenizer/split.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>

#include <modelopt/error.h>

#include "tiny_tokenizer.h"

namespace modelopt::checkpoint::tokenizer {
namespace {

using Strings = std::vector<std::string>;

Strings split(Pattern pattern, SplitBehavior behavior, bool invert, const std::string& text) {
  Words words{.text = text, .spans = {{0, text.size()}}, .at_beginning = true};
  RegexScratch scratch;
  Split(std::move(pattern), behavior, invert).apply(words, scratch);
  Strings result;
  for (const Span& span : words.spans) result.emplace_back(span.of(words.text));
  return result;
}

TEST_CASE("what becomes of a match, by behavior") {
  const auto at_dash = [](SplitBehavior behavior) {
    return split(Pattern("-"), behavior, false, "the-final--countdown");
  };
  CHECK(at_dash(SplitBehavior::kRemoved) == Strings{"the", "final", "countdown"});
  CHECK(at_dash(SplitBehavior::kIsolated) == Strings{"the", "-", "final", "-", "-", "countdown"});
  CHECK(at_dash(SplitBehavior::kMergedWithPrevious) == Strings{"the-", "final-", "-", "countdown"});
  CHECK(at_dash(SplitBehavior::kMergedWithNext) == Strings{"the", "-final", "-", "-countdown"});
  CHECK(at_dash(SplitBehavior::kContiguous) == Strings{"the", "-", "final", "--", "countdown"});
}

TEST_CASE("inverted, what lies between the matches counts as the match") {
  const auto words = [](SplitBehavior behavior) {
    return split(Pattern(Regex("[a-z]+", "test")), behavior, true, "-ab--cd");
  };
  CHECK(words(SplitBehavior::kRemoved) == Strings{"ab", "cd"});
  CHECK(words(SplitBehavior::kMergedWithPrevious) == Strings{"-", "ab--", "cd"});
  CHECK(words(SplitBehavior::kMergedWithNext) == Strings{"-ab", "--cd"});
  CHECK(words(SplitBehavior::kContiguous) == Strings{"-", "ab", "--", "cd"});
}

TEST_CASE("a text of matches only, and one without any") {
  CHECK(split(Pattern("-"), SplitBehavior::kMergedWithPrevious, false, "--") == Strings{"-", "-"});
  CHECK(split(Pattern("-"), SplitBehavior::kMergedWithNext, false, "--") == Strings{"-", "-"});
  CHECK(split(Pattern("-"), SplitBehavior::kContiguous, false, "--") == Strings{"--"});
  CHECK(split(Pattern("-"), SplitBehavior::kRemoved, false, "--").empty());
  CHECK(split(Pattern("-"), SplitBehavior::kRemoved, false, "ab") == Strings{"ab"});
}

TEST_CASE("each word is a text of its own") {
  Words words{.text = "ab ab", .spans = {{0, 2}, {3, 5}}, .at_beginning = true};
  RegexScratch scratch;
  Split(Pattern(Regex("b$", "test")), SplitBehavior::kIsolated, false).apply(words, scratch);
  CHECK(words.spans == std::vector<Span>{{0, 1}, {1, 2}, {3, 4}, {4, 5}});
}

TEST_CASE("behaviors have names") {
  CHECK(read_split_behavior(node(R"("MergedWithNext")")) == SplitBehavior::kMergedWithNext);
  CHECK_THROWS_MATCHES(
      read_split_behavior(node(R"("Merged")")), DataError,
      Catch::Matchers::Message("part.json: $: \"Merged\", expected Removed, Isolated, MergedWithPrevious, "
                               "MergedWithNext or Contiguous"));
}

}  // namespace
}  // namespace modelopt::checkpoint::tokenizer
