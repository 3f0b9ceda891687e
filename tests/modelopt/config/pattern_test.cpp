#include <modelopt/config/pattern.h>

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <string>
#include <vector>

using modelopt::config::matches_pattern;
using modelopt::config::pattern_problem;

TEST_CASE("a star matches any characters, dots too") {
  CHECK(matches_pattern("*attn*", "model.layers.0.self_attn"));
  CHECK(matches_pattern("model.*.self_attn", "model.layers.0.self_attn"));
  CHECK(matches_pattern("*", ""));
  CHECK(matches_pattern("**", "x"));
  CHECK(matches_pattern("a*b*c", "aXbYbZc"));
  CHECK_FALSE(matches_pattern("*attn", "model.layers.0.self_attn.q_proj"));
  CHECK_FALSE(matches_pattern("a*b*c", "aXcYb"));
}

TEST_CASE("a pattern matches the whole name, case-sensitively") {
  CHECK(matches_pattern("self_attn", "self_attn"));
  CHECK_FALSE(matches_pattern("self_attn", "model.self_attn"));
  CHECK_FALSE(matches_pattern("*ATTN*", "self_attn"));
  CHECK_FALSE(matches_pattern("", "x"));
}

TEST_CASE("a question mark matches one character") {
  CHECK(matches_pattern("layers.?.attn", "layers.7.attn"));
  CHECK_FALSE(matches_pattern("layers.?.attn", "layers.17.attn"));
  CHECK(matches_pattern("a?c", "a.c"));
  CHECK_FALSE(matches_pattern("a?", "a"));
}

TEST_CASE("brackets match one character of a set") {
  CHECK(matches_pattern("layers.[024].attn", "layers.2.attn"));
  CHECK_FALSE(matches_pattern("layers.[024].attn", "layers.1.attn"));
  CHECK(matches_pattern("layers.[0-5].attn", "layers.3.attn"));
  CHECK_FALSE(matches_pattern("layers.[0-5].attn", "layers.6.attn"));
  CHECK(matches_pattern("layers.1[0-9].attn", "layers.17.attn"));
  CHECK(matches_pattern("[!0-5]", "6"));
  CHECK_FALSE(matches_pattern("[!0-5]", "3"));
  CHECK(matches_pattern("*.[!0]*", "layers.12"));
}

TEST_CASE("in a set, a first closing bracket and a minus at either end are members, and a caret is no negation") {
  CHECK(matches_pattern("[]]", "]"));
  CHECK(matches_pattern("[!]]", "x"));
  CHECK_FALSE(matches_pattern("[!]]", "]"));
  CHECK(matches_pattern("[-a]", "-"));
  CHECK(matches_pattern("[a-]", "-"));
  CHECK(matches_pattern("[a!]", "!"));
  CHECK(matches_pattern("[^a]", "a"));
  CHECK(matches_pattern("[*]", "*"));
  CHECK_FALSE(matches_pattern("[*]", "x"));
  CHECK(matches_pattern("a\\b", "a\\b"));
}

TEST_CASE("malformed patterns are named") {
  CHECK(pattern_problem("") == "an empty pattern");
  CHECK(pattern_problem("*[attn") == "a pattern with '[' that is never closed");
  CHECK(pattern_problem("[") == "a pattern with '[' that is never closed");
  CHECK(pattern_problem("[!") == "a pattern with '[' that is never closed");
  CHECK(pattern_problem("[]") == "a pattern with '[' that is never closed");
  CHECK(pattern_problem("[!]") == "a pattern with '[' that is never closed");
  CHECK(pattern_problem("layers.[9-0].attn") == "a pattern with the reversed range 9-0");
  CHECK_FALSE(pattern_problem("layers.[0-9].[!a]*]"));
}

TEST_CASE("matching many stars takes no exponential time") {
  std::string pattern;
  for (int i = 0; i < 40; ++i) pattern += "*a";
  CHECK_FALSE(matches_pattern(pattern + "b", std::string(5000, 'a')));
}

namespace {

// The definition, by recursion, for patterns without brackets.
bool matches_by_definition(const std::string& pattern, const std::string& name) {
  if (pattern.empty()) return name.empty();
  if (pattern[0] == '*')
    return matches_by_definition(pattern.substr(1), name) ||
           (!name.empty() && matches_by_definition(pattern, name.substr(1)));
  return !name.empty() && (pattern[0] == '?' || pattern[0] == name[0]) &&
         matches_by_definition(pattern.substr(1), name.substr(1));
}

std::vector<std::string> words(const std::string& alphabet, std::size_t max_length) {
  std::vector<std::string> all = {""};
  for (std::size_t begin = 0, length = 0; length < max_length; ++length) {
    const std::size_t end = all.size();
    for (; begin < end; ++begin)
      for (const char c : alphabet) all.push_back(all[begin] + c);
  }
  return all;
}

}  // namespace

TEST_CASE("all short patterns of stars, question marks and letters agree with the definition") {
  const auto names = words("ab", 5);
  std::size_t disagreements = 0, matches = 0;
  for (const std::string& pattern : words("ab*?", 4)) {
    for (const std::string& name : names) {
      const bool expected = matches_by_definition(pattern, name);
      matches += expected;
      disagreements += matches_pattern(pattern, name) != expected;
    }
  }
  CHECK(disagreements == 0);
  CHECK(matches > 1000);
}
