// Text for a terminal: widths in columns, wrapping, and no control sequences from model output.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace modelopt::cli {

/// Columns that UTF-8 `text` takes: combining marks 0, East Asian wide characters 2.
[[nodiscard]] std::size_t display_width(std::string_view text);

/// `text` with control characters other than line feeds replaced by U+FFFD (tabs by a blank), and so are invalid bytes:
/// what a model writes must not steer the terminal.
[[nodiscard]] std::string printable(std::string_view text);

/// Lines of at most `width` columns, broken at blanks where possible; line feeds break too. Expects printable text.
[[nodiscard]] std::vector<std::string> wrap(std::string_view text, std::size_t width);

/// `text` followed by blanks up to `width` columns, or with them in front.
[[nodiscard]] std::string pad_right(std::string_view text, std::size_t width);
[[nodiscard]] std::string pad_left(std::string_view text, std::size_t width);

}  // namespace modelopt::cli
