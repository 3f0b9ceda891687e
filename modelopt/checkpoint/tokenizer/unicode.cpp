#include <modelopt/checkpoint/tokenizer/unicode.h>

#include <unicode/uchar.h>

#include <array>

namespace modelopt::checkpoint::tokenizer {
namespace {

// How a lead byte goes on: the number of continuation bytes and the range of the first of them (Unicode 15, table 3-7).
struct LeadByte {
  std::uint8_t continuations;
  std::uint8_t low;
  std::uint8_t high;
};

constexpr LeadByte lead_byte(std::uint8_t byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {1, 0x80, 0xBF};
  if (byte == 0xE0) return {2, 0xA0, 0xBF};
  if (byte == 0xED) return {2, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {2, 0x80, 0xBF};
  if (byte == 0xF0) return {3, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {3, 0x80, 0xBF};
  if (byte == 0xF4) return {3, 0x80, 0x8F};
  return {0, 0, 0};
}

constexpr bool spells_itself(std::uint8_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct ByteAlphabet {
  std::array<std::string, 256> spelling;
  std::array<std::int16_t, 0x144> byte;  // -1: the character spells no byte

  ByteAlphabet() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (int value = 0; value < 256; ++value) {
      const char32_t character =
          spells_itself(static_cast<std::uint8_t>(value)) ? static_cast<char32_t>(value) : next++;
      append_utf8(spelling[static_cast<std::size_t>(value)], character);
      byte[character] = static_cast<std::int16_t>(value);
    }
  }
};

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

}  // namespace

Utf8Sequence read_utf8(std::string_view bytes) {
  using Kind = Utf8Sequence::Kind;
  const auto at = [&](std::size_t i) { return static_cast<std::uint8_t>(bytes[i]); };
  if (at(0) < 0x80) return {Kind::kCharacter, 1};
  const LeadByte lead = lead_byte(at(0));
  if (lead.continuations == 0) return {Kind::kIllFormed, 1};
  for (std::size_t i = 1; i <= lead.continuations; ++i) {
    if (i == bytes.size()) return {Kind::kTruncated, i};
    const std::uint8_t low = i == 1 ? lead.low : 0x80;
    const std::uint8_t high = i == 1 ? lead.high : 0xBF;
    if (at(i) < low || at(i) > high) return {Kind::kIllFormed, i};
  }
  return {Kind::kCharacter, lead.continuations + std::size_t{1}};
}

std::size_t find_invalid_utf8(std::string_view bytes) {
  for (std::size_t offset = 0; offset < bytes.size();) {
    const Utf8Sequence sequence = read_utf8(bytes.substr(offset));
    if (sequence.kind != Utf8Sequence::Kind::kCharacter) return offset;
    offset += sequence.length;
  }
  return std::string_view::npos;
}

CodePoint code_point_at(std::string_view text, std::size_t offset) {
  const auto at = [&](std::size_t i) { return static_cast<char32_t>(static_cast<std::uint8_t>(text[offset + i])); };
  if (at(0) < 0x80) return {at(0), offset + 1};
  if (at(0) < 0xE0) return {(at(0) & 0x1F) << 6 | (at(1) & 0x3F), offset + 2};
  if (at(0) < 0xF0) return {(at(0) & 0x0F) << 12 | (at(1) & 0x3F) << 6 | (at(2) & 0x3F), offset + 3};
  return {(at(0) & 0x07) << 18 | (at(1) & 0x3F) << 12 | (at(2) & 0x3F) << 6 | (at(3) & 0x3F), offset + 4};
}

std::size_t previous_offset(std::string_view text, std::size_t offset) {
  do {
    --offset;
  } while ((static_cast<std::uint8_t>(text[offset]) & 0xC0) == 0x80);
  return offset;
}

void append_utf8(std::string& text, char32_t code_point) {
  const auto put = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

bool is_white_space(char32_t code_point) { return u_isUWhiteSpace(static_cast<UChar32>(code_point)) != 0; }

bool is_word(char32_t code_point) {
  const auto character = static_cast<UChar32>(code_point);
  constexpr std::uint32_t kCategories = U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK;
  return u_isUAlphabetic(character) != 0 || (U_GET_GC_MASK(character) & kCategories) != 0 ||
         u_hasBinaryProperty(character, UCHAR_JOIN_CONTROL) != 0;
}

std::string_view byte_to_alphabet(std::uint8_t byte) { return byte_alphabet().spelling[byte]; }

std::optional<std::uint8_t> alphabet_to_byte(char32_t code_point) {
  const auto& byte = byte_alphabet().byte;
  if (code_point >= byte.size() || byte[code_point] < 0) return std::nullopt;
  return static_cast<std::uint8_t>(byte[code_point]);
}

}  // namespace modelopt::checkpoint::tokenizer
