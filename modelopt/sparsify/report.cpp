#include <modelopt/sparsify/report.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

namespace modelopt {
namespace {

using Row = std::array<std::string, 4>;

bool same_treatment(const ModuleReport& a, const ModuleReport& b) {
  return a.class_name == b.class_name && a.rule == b.rule && a.method == b.method && a.parameters == b.parameters &&
         a.backend == b.backend;
}

// {"sparsity_n":2,"backend":"fused"} as "sparsity_n=2 backend=fused"
std::string readable(const std::string& parameters) {
  std::string text;
  const auto json = nlohmann::ordered_json::parse(parameters);
  for (const auto& [key, value] : json.items())
    text += (text.empty() ? "" : " ") + key + "=" + (value.is_string() ? value.get<std::string>() : value.dump());
  return text;
}

std::string module_names(const ModuleReport& first, const ModuleReport& last, std::size_t count) {
  return count == 1 ? first.name : first.name + " … " + last.name + " (" + std::to_string(count) + ")";
}

// Columns on a terminal: bytes that do not continue a UTF-8 sequence.
std::size_t width(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::string without_trailing_spaces(std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

}  // namespace

std::size_t SparsifyReport::sparse_modules() const {
  return static_cast<std::size_t>(
      std::count_if(modules.begin(), modules.end(), [](const auto& module) { return module.is_sparse(); }));
}

nlohmann::ordered_json to_json(const SparsifyReport& report) {
  nlohmann::ordered_json modules = nlohmann::ordered_json::array();
  for (const ModuleReport& module : report.modules) {
    modules.push_back(
        {{"name", module.name},
         {"class", module.class_name},
         {"rule", module.rule},
         {"method", module.is_sparse() ? nlohmann::ordered_json(module.method) : nlohmann::ordered_json()},
         {"parameters", nlohmann::ordered_json::parse(module.parameters)},
         {"backend", module.backend}});
  }
  return {{"modules", std::move(modules)}, {"unmatched_patterns", report.unmatched_patterns}};
}

std::string to_table(const SparsifyReport& report) {
  std::vector<Row> rows = {{"module", "rule", "method", "backend"}};
  std::vector<std::string> details = {""};
  for (std::size_t begin = 0, end; begin < report.modules.size(); begin = end) {
    const ModuleReport& first = report.modules[begin];
    for (end = begin + 1; end < report.modules.size() && same_treatment(first, report.modules[end]);) ++end;
    rows.push_back({module_names(first, report.modules[end - 1], end - begin), first.rule,
                    first.is_sparse() ? first.method : "dense", first.backend});
    details.push_back("  " + first.class_name + "  " + readable(first.parameters));
  }
  std::array<std::size_t, std::tuple_size_v<Row>> widths{};
  for (const Row& row : rows)
    for (std::size_t column = 0; column < row.size(); ++column)
      widths[column] = std::max(widths[column], width(row[column]));
  std::string table;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::string line;
    for (std::size_t column = 0; column < rows[r].size(); ++column)
      line += rows[r][column] + std::string(widths[column] - width(rows[r][column]) + 2, ' ');
    table += without_trailing_spaces(line) + "\n";
    if (r > 0) table += without_trailing_spaces(details[r]) + "\n";
  }
  return table;
}

}  // namespace modelopt
