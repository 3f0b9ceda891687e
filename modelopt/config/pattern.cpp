#include <modelopt/config/pattern.h>

#include <modelopt/error.h>

namespace modelopt::config {
namespace {

constexpr auto kNone = std::string_view::npos;

// The position of the ']' that closes the set opened at `open`: not one that comes first, which is a member.
std::size_t closing_bracket(std::string_view pattern, std::size_t open) {
  std::size_t first = open + 1;
  if (first < pattern.size() && pattern[first] == '!') ++first;
  return first < pattern.size() ? pattern.find(']', first + 1) : kNone;
}

// Calls visit(low, high) for each character or range between the brackets.
template <typename Visit>
void for_each_range(std::string_view members, Visit visit) {
  for (std::size_t i = 0; i < members.size();) {
    const bool is_range = i + 2 < members.size() && members[i + 1] == '-';
    visit(members[i], is_range ? members[i + 2] : members[i]);
    i += is_range ? 3 : 1;
  }
}

bool is_in_set(std::string_view members, char c) {
  bool found = false;
  for_each_range(members, [&](char low, char high) {
    const auto byte = [](char x) { return static_cast<unsigned char>(x); };
    found = found || (byte(low) <= byte(c) && byte(c) <= byte(high));
  });
  return found;
}

// Whether the pattern's element at `position`, which is no '*', matches c. `next` is where the following element
// begins.
bool matches_element(std::string_view pattern, std::size_t position, char c, std::size_t& next) {
  next = position + 1;
  if (pattern[position] == '?') return true;
  if (pattern[position] != '[') return pattern[position] == c;
  const std::size_t close = closing_bracket(pattern, position);
  next = close + 1;
  const bool negated = pattern[position + 1] == '!';
  const std::size_t first = position + (negated ? 2 : 1);
  return is_in_set(pattern.substr(first, close - first), c) != negated;
}

}  // namespace

std::optional<std::string> pattern_problem(std::string_view pattern) {
  if (pattern.empty()) return "an empty pattern";
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '[') continue;
    const std::size_t close = closing_bracket(pattern, i);
    if (close == kNone) return "a pattern with '[' that is never closed";
    std::optional<std::string> problem;
    const std::size_t first = i + (pattern[i + 1] == '!' ? 2 : 1);
    for_each_range(pattern.substr(first, close - first), [&](char low, char high) {
      if (static_cast<unsigned char>(low) > static_cast<unsigned char>(high))
        problem = str("a pattern with the reversed range ", low, '-', high);
    });
    if (problem) return problem;
    i = close;
  }
  return std::nullopt;
}

bool matches_pattern(std::string_view pattern, std::string_view name) {
  // Only the last '*' ever needs to give back characters: what came before it matched as early as possible.
  std::size_t p = 0, n = 0, star = kNone, star_end = 0;
  while (n < name.size()) {
    std::size_t next = 0;
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_end = n;
    } else if (p < pattern.size() && matches_element(pattern, p, name[n], next)) {
      p = next;
      ++n;
    } else if (star != kNone) {
      p = star + 1;
      n = ++star_end;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace modelopt::config
