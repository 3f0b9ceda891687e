#include <modelopt/sparsify/report.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include <modelopt/error.h>

namespace modelopt {
namespace {

using Row = std::array<std::string, 4>;

bool same_treatment(const ModuleReport& a, const ModuleReport& b) {
  return a.class_name == b.class_name && a.rule == b.rule && a.method == b.method && a.parameters == b.parameters &&
         a.backend == b.backend;
}

// A calibration is too long for a table; its forms say what decides.
std::string calibration_forms(const nlohmann::ordered_json& calibration) {
  std::string text;
  for (const char* phase : {"prefill", "decode"})
    if (const auto found = calibration.find(phase); found != calibration.end())
      text += (text.empty() ? "" : ",") + std::string(phase) + ":" + found->value("form", "");
  return text;
}

// {"sparsity_n":2,"backend":"fused"} as "sparsity_n=2 backend=fused"
std::string readable(const std::string& parameters) {
  std::string text;
  const auto json = nlohmann::ordered_json::parse(parameters);
  for (const auto& [key, value] : json.items()) {
    text += (text.empty() ? "" : " ") + key + "=";
    if (key == "threshold_calibration")
      text += calibration_forms(value);
    else
      text += value.is_string() ? value.get<std::string>() : value.dump();
  }
  return text;
}

void add_item(std::string& list, const std::string& item) { list += (list.empty() ? "" : ", ") + item; }

std::string selection(std::int64_t n, std::int64_t m) { return str(n, ":", m); }

void add_thresholds(const config::PhaseThresholds& thresholds, std::string& list) {
  if (!thresholds.prefill.empty()) add_item(list, str("threshold ", thresholds.prefill.front(), " in prefill"));
  if (!thresholds.decode.empty()) add_item(list, str("threshold ", thresholds.decode.front(), " in decode"));
}

void add_targets(const config::ThresholdCalibration& calibration, const config::PhaseTargets& targets,
                 std::string& list) {
  const auto add = [&](const char* phase, const auto& calibrated, const std::optional<double>& target) {
    if (calibrated && target.value_or(0.0) > 0.0)
      add_item(list, str(*target, " of blocks in ", phase, " by ", to_string(calibrated->form)));
  };
  add("prefill", calibration.prefill, targets.prefill);
  add("decode", calibration.decode, targets.decode);
}

std::string describe(const config::MethodConfig& method) {
  const auto* skipping = config::skip_softmax_parameters(method);
  if (skipping == nullptr) {
    const auto& parameters = std::get<config::SparseSoftmaxConfig>(method);
    return selection(parameters.sparsity_n, parameters.sparsity_m);
  }
  std::string list;
  if (const auto* threshold = std::get_if<double>(&skipping->threshold)) add_item(list, str("threshold ", *threshold));
  if (const auto* thresholds = std::get_if<config::PhaseThresholds>(&skipping->threshold))
    add_thresholds(*thresholds, list);
  if (const auto* calibration = std::get_if<config::ThresholdCalibration>(&skipping->threshold))
    add_targets(*calibration, skipping->target_sparsity, list);
  if (skipping->sparsity_n > 0) add_item(list, selection(skipping->sparsity_n, skipping->sparsity_m));
  return list.empty() ? "nothing to skip" : list;
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

std::string summary(const SparsifyReport& report) {
  std::vector<std::pair<std::string, std::size_t>> methods;  // in the order of their first module
  for (const ModuleReport& module : report.modules) {
    if (!module.is_sparse()) continue;
    const std::string text = str(module.method, " (", describe(*module.config), ")");
    const auto known =
        std::find_if(methods.begin(), methods.end(), [&](const auto& item) { return item.first == text; });
    if (known == methods.end())
      methods.emplace_back(text, 1);
    else
      ++known->second;
  }
  if (methods.empty()) return "dense";
  if (methods.size() == 1) return methods.front().first;
  std::string line;
  for (const auto& [text, modules] : methods) add_item(line, str(text, " on ", modules));
  return line;
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
