#include <modelopt/checkpoint/tokenizer/regex_syntax.h>

#include <algorithm>
#include <array>
#include <cctype>

#include <modelopt/error.h>

namespace modelopt::checkpoint::tokenizer {
namespace {

// PCRE2's own \s, \w and \d differ from Oniguruma's even with PCRE2_UCP: U+180E is a blank to one, marks are no word
// characters to it. These stand inside brackets.
constexpr std::string_view kSpace = "\\p{White_Space}";
constexpr std::string_view kNotSpace = "\\P{White_Space}";
constexpr std::string_view kDigit = "\\p{Nd}";
constexpr std::string_view kNotDigit = "\\P{Nd}";
constexpr std::string_view kWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";

// Control characters that both write alike.
constexpr std::string_view kSameEscapes = "rntfae";

// General categories mean the same in both. A script's name does not: PCRE2 takes it for Script_Extensions.
constexpr std::array<std::string_view, 38> kCategories = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe",
    "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Cs", "Co", "Cn", "Any"};

class Translator {
 public:
  Translator(std::string_view pattern, std::string_view where) : pattern_(pattern), where_(where) {}

  TranslatedPattern run() {
    while (position_ < pattern_.size()) {
      start_ = position_;
      const char c = pattern_[position_];
      if (c == '\\') {
        escape(/*in_class=*/false);
      } else if (c == '[') {
        character_class();
      } else if (c == '(') {
        group();
      } else if (c == '{') {
        interval();
      } else {
        copy(1);
      }
    }
    return std::move(result_);
  }

 private:
  [[nodiscard]] bool next_is(std::string_view text) const { return pattern_.substr(position_).starts_with(text); }

  void put(std::string_view text) {
    result_.text += text;
    result_.origin.insert(result_.origin.end(), text.size(), start_);
  }

  void copy(std::size_t count) {
    put(pattern_.substr(position_, count));
    position_ += count;
  }

  void replace(std::size_t count, std::string_view by) {
    put(by);
    position_ += count;
  }

  [[noreturn]] void refuse(std::string_view part, std::string_view reason) const {
    throw DataError(str(where_, ": \"", part, "\" at offset ", start_, " of the regular expression: ", reason));
  }

  void escape(bool in_class) {
    start_ = position_;
    if (position_ + 1 == pattern_.size()) refuse("\\", "a character has to follow");
    const char c = pattern_[position_ + 1];
    const std::string_view part = pattern_.substr(position_, 2);
    switch (c) {
      case 's': return replace(2, kSpace);
      case 'S': return replace(2, kNotSpace);
      case 'd': return replace(2, kDigit);
      case 'D': return replace(2, kNotDigit);
      case 'w': return replace(2, in_class ? std::string(kWord) : str("[", kWord, "]"));
      case 'W':
        if (in_class) refuse(part, "not supported in a character class");
        return replace(2, str("[^", kWord, "]"));
      case 'v': return replace(2, "\\x0B");
      case 'p':
      case 'P': return property();
      case 'x':
      case 'u': return code_point();
      default:
        if (std::isalnum(static_cast<unsigned char>(c)) != 0 && kSameEscapes.find(c) == std::string_view::npos)
          refuse(part, "not a supported escape");
        return copy(2);  // a punctuation mark for itself; of a longer character the rest follows as it is
    }
  }

  void property() {
    const std::size_t close = pattern_.find('}', position_);
    if (!pattern_.substr(position_ + 2).starts_with('{') || close == std::string_view::npos)
      refuse(pattern_.substr(position_, 2), "expected a category in braces");
    const std::size_t end = close + 1;
    std::string_view name = pattern_.substr(position_ + 3, close - position_ - 3);
    if (name.starts_with('^')) name.remove_prefix(1);
    if (std::find(kCategories.begin(), kCategories.end(), name) == kCategories.end())
      refuse(pattern_.substr(position_, end - position_), "expected a general category of Unicode, such as L or Nd");
    copy(end - position_);
  }

  // \xHH, \x{H…} and \uHHHH
  void code_point() {
    const bool braces = next_is("\\x{");
    const std::size_t digits = braces ? 3 : 2;
    const std::size_t wanted = pattern_[position_ + 1] == 'u' ? 4 : 2;
    std::size_t count = 0;
    while (position_ + digits + count < pattern_.size() &&
           std::isxdigit(static_cast<unsigned char>(pattern_[position_ + digits + count])) != 0 &&
           (braces || count < wanted))
      ++count;
    const std::string_view hex = pattern_.substr(position_ + digits, count);
    const std::size_t end = position_ + digits + count + (braces ? 1 : 0);
    const std::string_view part = pattern_.substr(position_, end - position_);
    if (braces ? count == 0 || !part.ends_with('}') : count != wanted) refuse(part, "not a whole code point");
    if (wanted == 2 && !braces && hex[0] > '7') refuse(part, "a single byte of a longer character");
    replace(part.size(), str("\\x{", hex, "}"));
  }

  void character_class() {
    const std::size_t open = position_;
    copy(next_is("[^") ? 2 : 1);
    if (next_is("]")) refuse(pattern_.substr(open, position_ + 1 - open), "an empty character class");
    while (!next_is("]")) {
      start_ = position_;
      if (position_ == pattern_.size()) {
        start_ = open;
        refuse(pattern_.substr(open, 1), "the character class is not closed");
      }
      if (next_is("[")) refuse("[", "nested character classes are not supported");
      if (next_is("&&")) refuse("&&", "intersections of character classes are not supported");
      if (next_is("\\")) {
        escape(/*in_class=*/true);
      } else {
        copy(1);
      }
    }
    start_ = position_;
    copy(1);
  }

  void group() {
    constexpr std::array<std::string_view, 8> kSame = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:"};
    if (next_is("(*")) refuse("(*", "not supported");
    if (!next_is("(?")) return copy(1);
    for (const std::string_view opening : kSame)
      if (next_is(opening)) return copy(opening.size());
    refuse(pattern_.substr(position_, 3), "not a supported kind of group");
  }

  // {n}, {n,} and {n,m}; behind the last, "+" makes it possessive in PCRE2 and repeats it in Ruby.
  void interval() {
    std::size_t end = position_ + 1;
    const auto skip_digits = [&] {
      const std::size_t first = end;
      while (end < pattern_.size() && std::isdigit(static_cast<unsigned char>(pattern_[end])) != 0) ++end;
      return end > first;
    };
    bool valid = skip_digits();
    if (pattern_.substr(end).starts_with(',')) {
      ++end;
      skip_digits();
    }
    valid = valid && pattern_.substr(end).starts_with('}') && !pattern_.substr(end).starts_with("}+");
    if (!valid) refuse(pattern_.substr(position_, end + 1 - position_), "not a supported repetition");
    copy(end + 1 - position_);
  }

  std::string_view pattern_;
  std::string_view where_;
  std::size_t position_ = 0;
  std::size_t start_ = 0;  // of the part being translated
  TranslatedPattern result_;
};

}  // namespace

TranslatedPattern translate_pattern(std::string_view pattern, std::string_view where) {
  return Translator(pattern, where).run();
}

}  // namespace modelopt::checkpoint::tokenizer
