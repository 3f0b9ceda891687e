#include <modelopt/config/parse.h>

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include <modelopt/config/enumeration.h>
#include <modelopt/config/method_descriptor.h>
#include <modelopt/config/overrides.h>
#include <modelopt/config/pattern.h>
#include <modelopt/config/presets.h>
#include <modelopt/util/file.h>
#include <modelopt/util/ordered_json.h>

namespace modelopt::config {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t kMaxShownValue = 60;

std::string shown(const ordered_json& value) {
  std::string text = value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  if (text.size() > kMaxShownValue) text = text.substr(0, kMaxShownValue) + "…";
  return text;
}

// Walks the JSON of a configuration once and collects everything that is wrong with it.
class Reader {
 public:
  explicit Reader(std::string_view origin) : origin_(origin) {}

  SparseAttentionConfig read(const ordered_json& root, const std::vector<std::string>& duplicates) {
    for (const std::string& path : duplicates) problem(path, "the key occurs twice", "it once");
    SparseAttentionConfig config;
    if (!is_object("$", root)) return config;
    for (const auto& [key, value] : root.items()) {
      const std::string path = json_path("$", key);
      if (key == "sparse_cfg") {
        read_sparse_cfg(path, value, config);
      } else if (key == "name") {
        read_string(path, value, config.name);
      } else if (key == "description") {
        read_string(path, value, config.description);
      } else if (key == "$schema") {
        std::string ignored;  // for editors
        read_string(path, value, ignored);
      } else {
        unknown_key(path, value, "sparse_cfg, name, description or $schema");
      }
    }
    if (!root.contains("sparse_cfg")) problem("$.sparse_cfg", "missing", "an object of patterns");
    return config;
  }

  /// Throws ConfigError with all problems, if there are any.
  void finish() const {
    std::string message;
    for (const std::string& line : problems_) message += (message.empty() ? "" : "\n") + line;
    MODELOPT_CHECK(message.empty(), ConfigError, message);
  }

 private:
  void problem(std::string_view path, std::string_view value, std::string_view expectation) {
    problems_.push_back(str(origin_, ": ", path, ": ", value, ", expected ", expectation));
  }

  void unknown_key(std::string_view path, const ordered_json& value, std::string_view known) {
    problem(path, str("unknown key (value ", shown(value), ")"), known);
  }

  bool is_object(std::string_view path, const ordered_json& value) {
    if (!value.is_object()) problem(path, shown(value), "an object");
    return value.is_object();
  }

  bool read_string(std::string_view path, const ordered_json& value, std::string& target) {
    if (value.is_string()) {
      target = value.get<std::string>();
    } else {
      problem(path, shown(value), "a string");
    }
    return value.is_string();
  }

  void read_sparse_cfg(std::string_view path, const ordered_json& json, SparseAttentionConfig& config) {
    if (!is_object(path, json)) return;
    for (const auto& [key, value] : json.items()) {
      const std::string rule_path = json_path(path, key);
      if (key == "calibration") {
        problem(rule_path, str(shown(value), " is not built yet"),
                "no calibration: it comes with the skip-softmax methods");
      } else if (key == "default") {
        config.default_rule = read_rule(rule_path, value);
      } else {
        if (const auto malformed = pattern_problem(key))
          problem(rule_path, *malformed, "a shell-style pattern of module names, or a class name");
        config.rules.push_back({.pattern = key, .rule = read_rule(rule_path, value)});
      }
    }
  }

  Rule read_rule(std::string_view path, const ordered_json& json) {
    Rule rule{.enable = true, .method = std::nullopt};
    if (!is_object(path, json)) return rule;
    if (const auto enable = json.find("enable"); enable != json.end()) {
      if (enable->is_boolean()) {
        rule.enable = enable->get<bool>();
      } else {
        problem(json_path(path, "enable"), shown(*enable), "true or false");
      }
    }
    if (const auto calibration = json.find("calibration"); calibration != json.end()) {
      problem(json_path(path, "calibration"), str(shown(*calibration), " inside a pattern"),
              "calibration beside the patterns, at $.sparse_cfg.calibration");
    }
    if (const auto method = json.find("method"); method != json.end()) {
      rule.method = read_method(path, json, *method);
    } else {
      if (rule.enable)
        problem(json_path(path, "method"), "missing", str(known_method_names(), ", or \"enable\": false"));
      for (const auto& [key, value] : json.items()) {
        if (!is_common_key(key))
          unknown_key(json_path(path, key), value, "method, enable, or a method that takes this parameter");
      }
    }
    return rule;
  }

  static bool is_common_key(std::string_view key) { return key == "method" || key == "enable" || key == "calibration"; }

  std::optional<MethodConfig> read_method(std::string_view path, const ordered_json& json,
                                          const ordered_json& name_json) {
    const std::string name_path = json_path(path, "method");
    std::string name;
    if (!read_string(name_path, name_json, name)) return std::nullopt;
    for (const MethodDescriptor& descriptor : method_descriptors()) {
      if (descriptor.name == name) return read_parameters(path, json, descriptor, {.name = descriptor.name});
      for (const MethodAlias& alias : descriptor.aliases)
        if (alias.name == name) return read_parameters(path, json, descriptor, alias);
    }
    const auto reason = why_method_is_missing(name);
    problem(name_path, reason ? str(shown(name_json), " ", *reason) : shown(name_json), known_method_names());
    return std::nullopt;
  }

  MethodConfig read_parameters(std::string_view path, const ordered_json& json, const MethodDescriptor& descriptor,
                               const MethodAlias& method_name) {
    MethodConfig method = descriptor.defaults;
    std::set<std::string_view> unread;  // fields whose value could not be taken
    for (const auto& [key, value] : json.items()) {
      if (is_common_key(key)) continue;
      const std::string key_path = json_path(path, key);
      const auto field =
          std::find_if(descriptor.fields.begin(), descriptor.fields.end(), [&key = key](const auto& candidate) {
            return candidate.name == key || (!candidate.alias.empty() && candidate.alias == key);
          });
      if (key == "backend") {
        read_backend(key_path, value, descriptor, method_name, method);
      } else if (field == descriptor.fields.end()) {
        unknown_key(key_path, value, known_keys(descriptor));
      } else if (key == field->alias && json.contains(field->name)) {
        problem(key_path, shown(value), str("either ", field->name, " or its alias ", field->alias, ", not both"));
      } else if (!read_integer(key_path, value, *field, method)) {
        unread.insert(field->name);
      }
    }
    report_out_of_range(path, json, descriptor, method, unread);
    return method;
  }

  bool read_integer(std::string_view path, const ordered_json& value, const FieldDescriptor& field,
                    MethodConfig& method) {
    const bool fits =
        value.is_number_integer() &&
        !(value.is_number_unsigned() && value.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max());
    if (fits) {
      field.set(method, value.get<std::int64_t>());
    } else {
      problem(path, shown(value), expected_values(field));
    }
    return fits;
  }

  void report_out_of_range(std::string_view path, const ordered_json& json, const MethodDescriptor& descriptor,
                           const MethodConfig& method, const std::set<std::string_view>& unread) {
    for (const FieldProblem& found : validate(method)) {
      const auto field = std::find_if(descriptor.fields.begin(), descriptor.fields.end(),
                                      [&](const auto& candidate) { return candidate.name == found.field; });
      if (unread.contains(field->name) || unread.contains(field->below)) continue;
      const std::string_view key =
          json.contains(field->name) || !json.contains(field->alias) ? field->name : field->alias;
      problem(json_path(path, key), str(found.value), found.expectation);
    }
  }

  void read_backend(std::string_view path, const ordered_json& value, const MethodDescriptor& descriptor,
                    const MethodAlias& method_name, MethodConfig& method) {
    struct Spelling {
      std::string_view name;
      MethodBackend backend;
    };
    static constexpr std::array<Spelling, 4> kSpellings = {{{"fused", MethodBackend::kFused},
                                                            {"triton", MethodBackend::kFused},
                                                            {"eager", MethodBackend::kEager},
                                                            {"pytorch", MethodBackend::kEager}}};
    std::vector<std::string> accepted;
    for (const Spelling& spelling : kSpellings) {
      const auto& backends = descriptor.backends;
      const bool runs = std::find(backends.begin(), backends.end(), spelling.backend) != backends.end();
      if (!runs || spelling.backend != method_name.backend.value_or(spelling.backend)) continue;
      if (value.is_string() && value.get_ref<const std::string&>() == spelling.name) {
        descriptor.set_backend(method, spelling.backend);
        return;
      }
      accepted.emplace_back(spelling.name);
    }
    problem(path, shown(value), str(one_of(accepted), " with method ", method_name.name));
  }

  static std::string known_keys(const MethodDescriptor& descriptor) {
    std::vector<std::string_view> keys = {"method", "enable", "backend"};
    for (const FieldDescriptor& field : descriptor.fields) keys.push_back(field.name);
    return one_of(keys);
  }

  std::string_view origin_;
  std::vector<std::string> problems_;
};

ordered_json to_json(const Rule& rule) {
  ordered_json json = rule.method ? to_json(*rule.method) : ordered_json::object();
  json["enable"] = rule.enable;
  return json;
}

SparseAttentionConfig read_valid(const ordered_json& root, std::string_view origin,
                                 const std::vector<std::string>& duplicates) {
  Reader reader(origin);
  SparseAttentionConfig config = reader.read(root, duplicates);
  reader.finish();
  return config;
}

}  // namespace

SparseAttentionConfig parse_config(std::string_view json, std::string_view origin,
                                   const std::vector<std::string>& overrides) {
  std::vector<std::string> duplicates;
  ordered_json root;
  try {
    root = parse_ordered_json(json, origin, duplicates);
  } catch (const DataError& error) {
    throw ConfigError(error.what());
  }
  SparseAttentionConfig config = read_valid(root, origin, duplicates);
  if (overrides.empty()) return config;
  apply_overrides(root, overrides, origin);
  std::string changed_origin = str(origin, " with");
  for (const std::string& assignment : overrides) changed_origin += " " + assignment;
  return read_valid(root, changed_origin, {});
}

SparseAttentionConfig load_config_file(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  std::string text;
  try {
    text = read_file(path);
  } catch (const DataError& error) {
    throw ConfigError(error.what());
  }
  return parse_config(text, path.string(), overrides);
}

SparseAttentionConfig load_config(const std::string& name_or_file, const std::vector<std::string>& overrides) {
  if (const presets::Preset* preset = presets::find(name_or_file))
    return parse_config(preset->json, preset->name, overrides);
  MODELOPT_CHECK(std::filesystem::exists(name_or_file), ConfigError, "configuration ", name_or_file,
                 ": no such file or preset, expected a file or one of ", presets::names());
  return load_config_file(name_or_file, overrides);
}

ordered_json to_json(const MethodConfig& method) {
  const MethodDescriptor& descriptor = descriptor_of(method);
  ordered_json json = {{"method", descriptor.name}};
  for (const FieldDescriptor& field : descriptor.fields) json[std::string(field.name)] = field.get(method);
  json["backend"] = to_string(descriptor.get_backend(method));
  return json;
}

ordered_json to_json(const SparseAttentionConfig& config) {
  ordered_json json = ordered_json::object();
  if (!config.name.empty()) json["name"] = config.name;
  if (!config.description.empty()) json["description"] = config.description;
  ordered_json& sparse_cfg = json["sparse_cfg"] = ordered_json::object();
  for (const PatternRule& entry : config.rules) sparse_cfg[entry.pattern] = to_json(entry.rule);
  sparse_cfg["default"] = to_json(config.default_rule);
  return json;
}

}  // namespace modelopt::config
