// Regular expressions of tokenizer files. They are written for Oniguruma (Ruby syntax) and run by PCRE2 with JIT.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace modelopt::checkpoint::tokenizer {

/// A stretch of a text, in bytes.
struct Span {
  std::size_t begin;
  std::size_t end;

  [[nodiscard]] std::string_view of(std::string_view text) const { return text.substr(begin, end - begin); }
  friend bool operator==(const Span&, const Span&) = default;
};

/// Memory that matching needs; may be used for any regex, by one thread at a time.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();
  RegexScratch(const RegexScratch&) = delete;
  RegexScratch& operator=(const RegexScratch&) = delete;

 private:
  friend class Regex;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A compiled pattern, safe to share between threads.
class Regex {
 public:
  /// Throws DataError, prefixed with `where` and with the offset in the pattern, for what is malformed, and for what
  /// Oniguruma and PCRE2 read differently and is not translated (see regex_syntax.h).
  Regex(std::string_view pattern, std::string_view where);

  /// All matches from left to right that do not overlap, as Oniguruma's find_iter gives them: an empty match right
  /// behind a match does not count. `text` is valid UTF-8. Throws DataError if the pattern needs more than 10^7 + 64 ·
  /// steps of backtracking.
  void find_all(std::string_view text, RegexScratch& scratch, std::vector<Span>& matches) const;

 private:
  struct Code;
  std::shared_ptr<const Code> code_;
  std::string pattern_;
  std::string where_;
};

}  // namespace modelopt::checkpoint::tokenizer
