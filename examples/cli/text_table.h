// A table of text: a header row, aligned columns, two blanks between them.
#pragma once

#include <string>
#include <vector>

namespace modelopt::cli {

enum class Align { kLeft, kRight };

struct Column {
  std::string title;
  Align align = Align::kLeft;
};

class TextTable {
 public:
  explicit TextTable(std::vector<Column> columns);
  /// Expects as many cells as there are columns.
  void add_row(std::vector<std::string> cells);
  /// Lines end with a line feed; no line has blanks at its end.
  [[nodiscard]] std::string render() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

/// `value` with `digits` digits after the point; "-" if it is not finite.
[[nodiscard]] std::string fixed(double value, int digits);

/// `value` with `digits` significant digits, in scientific notation where it is small.
[[nodiscard]] std::string significant(double value, int digits);

}  // namespace modelopt::cli
