#include "text_table.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include <modelopt/error.h>

#include "text_layout.h"

namespace modelopt::cli {
namespace {

std::string formatted(const char* format, int digits, double value) {
  if (!std::isfinite(value)) return "-";
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, format, digits, value);
  return buffer;
}

}  // namespace

TextTable::TextTable(std::vector<Column> columns) : columns_(std::move(columns)) {}

void TextTable::add_row(std::vector<std::string> cells) {
  MODELOPT_CHECK(cells.size() == columns_.size(), InvalidArgument, "a table row has ", cells.size(),
                 " cells, expected ", columns_.size());
  rows_.push_back(std::move(cells));
}

std::string TextTable::render() const {
  std::vector<std::size_t> widths;
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    std::size_t width = display_width(columns_[i].title);
    for (const auto& row : rows_) width = std::max(width, display_width(row[i]));
    widths.push_back(width);
  }
  std::string out;
  const auto add_line = [&](auto&& cell) {
    std::string line;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      if (i > 0) line += "  ";
      line += columns_[i].align == Align::kRight ? pad_left(cell(i), widths[i]) : pad_right(cell(i), widths[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + '\n';
  };
  add_line([&](std::size_t i) { return columns_[i].title; });
  add_line([&](std::size_t i) { return std::string(widths[i], '-'); });
  for (const auto& row : rows_) add_line([&](std::size_t i) { return row[i]; });
  return out;
}

std::string fixed(double value, int digits) { return formatted("%.*f", digits, value); }

std::string significant(double value, int digits) { return formatted("%.*g", digits, value); }

}  // namespace modelopt::cli
