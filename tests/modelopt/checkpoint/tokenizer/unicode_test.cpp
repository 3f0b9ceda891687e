#include <modelopt/checkpoint/tokenizer/unicode.h>

#include <catch2/catch_test_macros.hpp>
#include <set>

namespace modelopt::checkpoint::tokenizer {
namespace {

using Kind = Utf8Sequence::Kind;

TEST_CASE("UTF-8 is read by characters and maximal subparts") {
  const auto check = [](std::string_view bytes, Kind kind, std::size_t length) {
    CAPTURE(bytes);
    const Utf8Sequence sequence = read_utf8(bytes);
    CHECK(sequence.kind == kind);
    CHECK(sequence.length == length);
  };
  check("a\xFF", Kind::kCharacter, 1);
  check("\xC3\xA9", Kind::kCharacter, 2);
  check("\xE2\x82\xAC", Kind::kCharacter, 3);
  check("\xF0\x9F\x98\x80", Kind::kCharacter, 4);
  check("\x80", Kind::kIllFormed, 1);
  check("\xC0\xAF", Kind::kIllFormed, 1);          // overlong
  check("\xE0\x80\xAF", Kind::kIllFormed, 1);      // overlong
  check("\xED\xA0\x80", Kind::kIllFormed, 1);      // surrogate
  check("\xF4\x90\x80\x80", Kind::kIllFormed, 1);  // beyond U+10FFFF
  check("\xE2\x82(", Kind::kIllFormed, 2);
  check("\xF0\x9F\x98(", Kind::kIllFormed, 3);
  check("\xF0\x9F\x98", Kind::kTruncated, 3);
  check("\xE2", Kind::kTruncated, 1);
}

TEST_CASE("every code point survives encoding and decoding") {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text = "x";
    append_utf8(text, c);
    const CodePoint read = code_point_at(text, 1);
    if (read.value != c || read.end != text.size() || find_invalid_utf8(text) != std::string::npos ||
        previous_offset(text, text.size()) != 1)
      FAIL("code point " << static_cast<std::uint32_t>(c));
  }
}

TEST_CASE("the byte alphabet spells every byte with a character of its own") {
  CHECK(byte_to_alphabet('a') == "a");
  CHECK(byte_to_alphabet(' ') == "Ġ");
  CHECK(byte_to_alphabet('\n') == "Ċ");
  CHECK(byte_to_alphabet(0xE9) == "é");
  CHECK(byte_to_alphabet(0xAD) == "\u0143");
  std::set<std::string_view> spellings;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string_view spelling = byte_to_alphabet(static_cast<std::uint8_t>(byte));
    spellings.insert(spelling);
    CHECK(alphabet_to_byte(code_point_at(spelling, 0).value) == byte);
  }
  CHECK(spellings.size() == 256);
  CHECK(alphabet_to_byte(' ') == std::nullopt);
  CHECK(alphabet_to_byte(0x144) == std::nullopt);
}

TEST_CASE("white space and word characters are Unicode's") {
  for (const char32_t c : {U' ', U'\t', U'\x0B', U'\x85', U'\xA0', U'\u1680', U'\u2028', U'\u202F', U'\u3000'})
    CHECK(is_white_space(c));
  for (const char32_t c : {U'\0', U'\x1C', U'\u180E', U'\u200B', U'\u2060', U'\uFEFF'}) CHECK_FALSE(is_white_space(c));
  for (const char32_t c : {U'a', U'é', U'7', U'_', U'\u0301', U'語', U'\u200D', U'\u0661'}) CHECK(is_word(c));
  for (const char32_t c : {U' ', U'-', U'½', U'²', U'€', U'\u3000'}) CHECK_FALSE(is_word(c));
}

}  // namespace
}  // namespace modelopt::checkpoint::tokenizer
