#include "text_layout.h"

#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <cstdint>

namespace modelopt::cli {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// The next code point of `text` at `position`, which moves on; negative for an invalid sequence.
UChar32 next_code_point(std::string_view text, std::size_t& position) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  const auto length = static_cast<std::int32_t>(text.size());
  auto offset = static_cast<std::int32_t>(position);
  UChar32 code_point = 0;
  U8_NEXT(bytes, offset, length, code_point);
  position = static_cast<std::size_t>(offset);
  return code_point;
}

std::size_t columns(UChar32 code_point) {
  if (code_point < 0) return 1;
  const auto type = u_charType(code_point);
  if (type == U_NON_SPACING_MARK || type == U_ENCLOSING_MARK || type == U_FORMAT_CHAR) return 0;
  const auto width = u_getIntPropertyValue(code_point, UCHAR_EAST_ASIAN_WIDTH);
  return width == U_EA_WIDE || width == U_EA_FULLWIDTH ? 2 : 1;
}

// One paragraph (no line feeds) into lines.
void wrap_paragraph(std::string_view text, std::size_t width, std::vector<std::string>& lines) {
  std::size_t line_start = 0;
  std::size_t line_columns = 0;
  std::size_t last_blank = std::string_view::npos;  // where the current line can be broken
  std::size_t position = 0;
  while (position < text.size()) {
    const std::size_t here = position;
    const std::size_t step = columns(next_code_point(text, position));
    if (line_columns + step > width && here > line_start) {
      const bool at_blank = last_blank != std::string_view::npos && last_blank > line_start;
      const std::size_t end = text[here] == ' ' ? here : at_blank ? last_blank : here;
      lines.emplace_back(text.substr(line_start, end - line_start));
      line_start = end < text.size() && text[end] == ' ' ? end + 1 : end;
      last_blank = std::string_view::npos;
      line_columns = display_width(text.substr(line_start, position > line_start ? position - line_start : 0));
      continue;
    }
    if (text[here] == ' ') last_blank = here;
    line_columns += step;
  }
  lines.emplace_back(text.substr(line_start));
}

}  // namespace

std::size_t display_width(std::string_view text) {
  std::size_t width = 0;
  for (std::size_t position = 0; position < text.size();) width += columns(next_code_point(text, position));
  return width;
}

std::string printable(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t position = 0; position < text.size();) {
    const std::size_t start = position;
    const UChar32 code_point = next_code_point(text, position);
    if (code_point == '\t') {
      out += ' ';
    } else if (code_point < 0 || (code_point != '\n' && u_charType(code_point) == U_CONTROL_CHAR)) {
      out += kReplacement;
    } else {
      out += text.substr(start, position - start);
    }
  }
  return out;
}

std::vector<std::string> wrap(std::string_view text, std::size_t width) {
  std::vector<std::string> lines;
  while (true) {
    const std::size_t end = text.find('\n');
    wrap_paragraph(text.substr(0, end), width, lines);
    if (end == std::string_view::npos) return lines;
    text.remove_prefix(end + 1);
  }
}

std::string pad_right(std::string_view text, std::size_t width) {
  const std::size_t used = display_width(text);
  return std::string(text) + std::string(used < width ? width - used : 0, ' ');
}

std::string pad_left(std::string_view text, std::size_t width) {
  const std::size_t used = display_width(text);
  return std::string(used < width ? width - used : 0, ' ') + std::string(text);
}

}  // namespace modelopt::cli
