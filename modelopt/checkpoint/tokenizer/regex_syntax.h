// From Oniguruma's Ruby syntax, in which tokenizer files are written, to PCRE2's.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace modelopt::checkpoint::tokenizer {

/// A pattern for PCRE2 with PCRE2_UTF and PCRE2_MULTILINE.
struct TranslatedPattern {
  std::string text;
  std::vector<std::size_t> origin;  ///< for each byte of `text`, the offset in the original that it comes from
};

/// The two syntaxes agree on most of what occurs. What differs is spelled out (\s, \w and \d are Unicode's in one, \v
/// and \u mean something else in the other); what differs and is not known from tokenizer files is refused: throws
/// DataError with `where`, the pattern's part, its offset and the reason.
[[nodiscard]] TranslatedPattern translate_pattern(std::string_view pattern, std::string_view where);

}  // namespace modelopt::checkpoint::tokenizer
