#include <modelopt/config/overrides.h>

#include <nlohmann/json.hpp>
#include <optional>

#include <modelopt/config/enumeration.h>
#include <modelopt/config/method_descriptor.h>
#include <modelopt/error.h>

namespace modelopt::config {
namespace {

using nlohmann::ordered_json;

struct Assignment {
  std::optional<std::string> pattern;
  std::string field;
  ordered_json value;
};

ordered_json parse_value(const std::string& text) {
  ordered_json value = ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  return value.is_discarded() ? ordered_json(text) : value;
}

Assignment parse_assignment(const std::string& text, std::string_view origin) {
  Assignment assignment;
  std::string target = text;
  if (!text.empty() && (text.front() == '\'' || text.front() == '"')) {
    const std::size_t close = text.find(text.front(), 1);
    MODELOPT_CHECK(close != std::string::npos && close + 1 < text.size() && text[close + 1] == '.', ConfigError, origin,
                   ": ", text, ": a quote without its end, expected 'PATTERN'.FIELD=VALUE");
    assignment.pattern = text.substr(1, close - 1);
    target = text.substr(close + 2);
  }
  const std::size_t equals = target.find('=');
  MODELOPT_CHECK(equals != std::string::npos && equals > 0, ConfigError, origin, ": ", text,
                 ": not an assignment, expected FIELD=VALUE or PATTERN.FIELD=VALUE");
  assignment.value = parse_value(target.substr(equals + 1));
  target.resize(equals);
  const std::size_t dot = assignment.pattern ? std::string::npos : target.rfind('.');  // field names have no dots
  if (dot != std::string::npos) {
    assignment.pattern = target.substr(0, dot);
    target.erase(0, dot + 1);
  }
  assignment.field = std::move(target);
  return assignment;
}

// The key under which the rule has this field already (perhaps by its other name), or the field's name as given.
std::string key_in(const ordered_json& rule, const std::string& field) {
  for (const MethodDescriptor& method : method_descriptors()) {
    for (const Field<MethodConfig>& known : method.fields) {
      if (known.alias.empty() || (known.name != field && known.alias != field)) continue;
      for (const std::string_view key : {known.name, known.alias})
        if (rule.contains(key)) return std::string(key);
    }
  }
  return field;
}

// Whether a rule of some method can have this field, and so be without it.
bool is_method_field(const std::string& field) {
  for (const MethodDescriptor& method : method_descriptors())
    for (const Field<MethodConfig>& known : method.fields)
      if (known.name == field || (!known.alias.empty() && known.alias == field)) return true;
  return false;
}

// The fields of which a rule may have only one: the assigned one replaces the others.
void remove_alternatives(ordered_json& rule, const std::string& field) {
  for (const MethodDescriptor& method : method_descriptors()) {
    for (const Field<MethodConfig>& known : method.fields) {
      if (known.name != field || known.one_of.empty()) continue;
      for (const Field<MethodConfig>& other : method.fields)
        if (other.name != field && other.one_of == known.one_of) rule.erase(std::string(other.name));
    }
  }
}

void set_field(ordered_json& rule, const Assignment& assignment) {
  const std::string key = key_in(rule, assignment.field);
  if (assignment.value.is_null() && is_method_field(assignment.field)) {
    rule.erase(key);
    return;
  }
  remove_alternatives(rule, assignment.field);
  rule[key] = assignment.value;
}

bool is_enabled_rule(const std::string& key, const ordered_json& rule) {
  return key != "calibration" && rule.value("enable", true);
}

void apply(ordered_json& sparse_cfg, const std::string& text, std::string_view origin) {
  const Assignment assignment = parse_assignment(text, origin);
  if (!assignment.pattern && assignment.field == "calibration" && assignment.value.is_null()) {
    sparse_cfg.erase("calibration");
    return;
  }
  if (assignment.pattern == "calibration") {
    sparse_cfg["calibration"][assignment.field] = assignment.value;
    return;
  }
  if (assignment.pattern) {
    std::vector<std::string> patterns;
    for (const auto& [key, value] : sparse_cfg.items()) patterns.push_back(key);
    MODELOPT_CHECK(sparse_cfg.contains(*assignment.pattern), ConfigError, origin, ": ", text,
                   ": no rule has the pattern ", *assignment.pattern, ", expected ", one_of(patterns));
    set_field(sparse_cfg[*assignment.pattern], assignment);
    return;
  }
  bool found = false;
  for (auto& [key, rule] : sparse_cfg.items()) {
    if (!is_enabled_rule(key, rule)) continue;
    set_field(rule, assignment);
    found = true;
  }
  MODELOPT_CHECK(found, ConfigError, origin, ": ", text, ": no rule is enabled, expected PATTERN.FIELD=VALUE");
}

}  // namespace

void apply_overrides(ordered_json& config, const std::vector<std::string>& assignments, std::string_view origin) {
  for (const std::string& text : assignments) apply(config.at("sparse_cfg"), text, origin);
}

}  // namespace modelopt::config
