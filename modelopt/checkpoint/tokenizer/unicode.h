// UTF-8 and the few character properties that tokenization asks for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace modelopt::checkpoint::tokenizer {

/// What stands at the beginning of some bytes: a character; a maximal subpart of an ill-formed sequence (Unicode 15,
/// section 3.9: what one U+FFFD replaces); or the beginning of a character that the bytes end too early for.
struct Utf8Sequence {
  enum class Kind : std::uint8_t { kCharacter, kIllFormed, kTruncated };
  Kind kind;
  std::size_t length;  ///< in bytes, at least 1
};
[[nodiscard]] Utf8Sequence read_utf8(std::string_view bytes);

/// Offset of the first byte that is no part of a character, or npos if all is valid UTF-8.
[[nodiscard]] std::size_t find_invalid_utf8(std::string_view bytes);

/// The character at `offset` of valid UTF-8, and the offset behind it.
struct CodePoint {
  char32_t value;
  std::size_t end;
};
[[nodiscard]] CodePoint code_point_at(std::string_view text, std::size_t offset);
/// Offset of the character that ends right before `offset` > 0.
[[nodiscard]] std::size_t previous_offset(std::string_view text, std::size_t offset);

void append_utf8(std::string& text, char32_t code_point);

/// U+FFFD in UTF-8.
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

/// Unicode property White_Space.
[[nodiscard]] bool is_white_space(char32_t code_point);
/// A word character by UTS #18: Alphabetic, marks, decimal digits, connector punctuation, Join_Control.
[[nodiscard]] bool is_word(char32_t code_point);

/// The alphabet in which byte-level vocabularies spell bytes (from GPT-2): printable Latin-1 stands for itself, the
/// other 68 bytes for U+0100 … U+0143 in order.
[[nodiscard]] std::string_view byte_to_alphabet(std::uint8_t byte);
[[nodiscard]] std::optional<std::uint8_t> alphabet_to_byte(char32_t code_point);

}  // namespace modelopt::checkpoint::tokenizer
