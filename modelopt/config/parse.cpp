#include <modelopt/config/parse.h>

#include <algorithm>
#include <array>
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
    check_chunks(config);
    if (problems_.empty()) check_targets(config);  // a threshold that could not be read would seem to be absent
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
        if (is_object(rule_path, value)) config.calibration = read_calibration(rule_path, value);
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
    const auto known_keys = [&] {
      std::vector<std::string_view> keys = {"method", "enable", "backend"};
      for (const Field<MethodConfig>& field : descriptor.fields) keys.push_back(field.name);
      return one_of(keys);
    };
    std::set<std::string_view> unread;
    for (const auto& [key, value] : json.items()) {
      if (is_common_key(key)) continue;
      if (key == "backend") {
        read_backend(json_path(path, key), value, descriptor, method_name, method);
      } else {
        read_field(path, json, key, descriptor.fields, known_keys, method, unread);
      }
    }
    report(path, json, descriptor.fields, validate(method), unread);
    return method;
  }

  CalibrationConfig read_calibration(std::string_view path, const ordered_json& json) {
    CalibrationConfig calibration;
    const auto& fields = calibration_fields();
    const auto known_keys = [&] {
      std::vector<std::string_view> keys;
      for (const Field<CalibrationConfig>& field : fields) keys.push_back(field.name);
      return one_of(keys);
    };
    std::set<std::string_view> unread;
    for (const auto& [key, value] : json.items()) read_field(path, json, key, fields, known_keys, calibration, unread);
    report(path, json, fields, validate(calibration), unread);
    return calibration;
  }

  // Reads the value of `key` into its field. A field whose value could not be taken is added to `unread`.
  template <typename Owner, typename KnownKeys>
  void read_field(std::string_view path, const ordered_json& json, const std::string& key,
                  const std::vector<Field<Owner>>& fields, KnownKeys known_keys, Owner& owner,
                  std::set<std::string_view>& unread) {
    const ordered_json& value = json[key];
    const std::string key_path = json_path(path, key);
    const auto field = std::find_if(fields.begin(), fields.end(), [&](const Field<Owner>& candidate) {
      return candidate.name == key || (!candidate.alias.empty() && candidate.alias == key);
    });
    if (field == fields.end()) {
      unknown_key(key_path, value, known_keys());
    } else if (key == field->alias && json.contains(field->name)) {
      problem(key_path, shown(value), str("either ", field->name, " or its alias ", field->alias, ", not both"));
    } else if (const auto other = contradicted(json, fields, *field)) {
      problem(key_path, shown(value), str("either ", *other, " or ", field->name, ", not both"));
    } else if (!(value.is_null() && field->nullable) && !field->set(owner, value)) {
      for (const ValueProblem& found : field->domain.problems(value))
        problem(key_path + found.path, found.value, found.expectation);
      unread.insert(field->name);
    }
  }

  // An earlier field that excludes this one, and has a value too.
  template <typename Owner>
  static std::optional<std::string_view> contradicted(const ordered_json& json, const std::vector<Field<Owner>>& fields,
                                                      const Field<Owner>& field) {
    if (field.one_of.empty()) return std::nullopt;
    for (const auto& [key, value] : json.items()) {
      if (key == field.name) return std::nullopt;
      for (const Field<Owner>& other : fields)
        if (other.name == key && other.one_of == field.one_of) return other.name;
    }
    return std::nullopt;
  }

  template <typename Owner>
  void report(std::string_view path, const ordered_json& json, const std::vector<Field<Owner>>& fields,
              const std::vector<FieldProblem>& problems, const std::set<std::string_view>& unread) {
    for (const FieldProblem& found : problems) {
      const auto field = std::find_if(fields.begin(), fields.end(),
                                      [&](const Field<Owner>& candidate) { return candidate.name == found.field; });
      if (unread.contains(field->name) || unread.contains(field->below)) continue;
      const std::string_view key =
          json.contains(field->name) || !json.contains(field->alias) ? field->name : field->alias;
      problem(json_path(path, key) + found.path, found.value, found.expectation);
    }
  }

  // Chunks that cut a query block would count other blocks.
  void check_chunks(const SparseAttentionConfig& config) {
    if (!config.calibration || config.calibration->chunk_size == -1) return;
    std::vector<const Rule*> rules = {&config.default_rule};
    for (const PatternRule& entry : config.rules) rules.push_back(&entry.rule);
    for (const Rule* rule : rules) {
      const SkipSoftmaxConfig* parameters =
          rule->enable && rule->method ? skip_softmax_parameters(*rule->method) : nullptr;
      if (parameters == nullptr || parameters->br < 1 || config.calibration->chunk_size % parameters->br == 0) continue;
      problem("$.sparse_cfg.calibration.chunk_size", str(config.calibration->chunk_size),
              str("-1 or a multiple of br = ", parameters->br));
      return;
    }
  }

  // A target comes true by a calibration alone, done or ordered.
  void check_targets(const SparseAttentionConfig& config) {
    if (config.calibration) return;
    for (const PatternRule& entry : config.rules) check_targets(json_path("$.sparse_cfg", entry.pattern), entry.rule);
    check_targets("$.sparse_cfg.default", config.default_rule);
  }

  void check_targets(const std::string& path, const Rule& rule) {
    const SkipSoftmaxConfig* parameters = rule.enable && rule.method ? skip_softmax_parameters(*rule.method) : nullptr;
    if (parameters == nullptr || std::holds_alternative<ThresholdCalibration>(parameters->threshold)) return;
    const auto check_phase = [&](std::string_view phase, const std::optional<double>& target) {
      if (target)
        problem(str(path, ".target_sparsity.", phase), shown(*target),
                str("a threshold_calibration for ", phase, ", or a calibration block beside the patterns"));
    };
    check_phase("prefill", parameters->target_sparsity.prefill);
    check_phase("decode", parameters->target_sparsity.decode);
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

  std::string_view origin_;
  std::vector<std::string> problems_;
};

template <typename Owner>
void add_fields(ordered_json& json, const std::vector<Field<Owner>>& fields, const Owner& owner) {
  for (const Field<Owner>& field : fields)
    if (ordered_json value = field.get(owner); !value.is_null()) json[std::string(field.name)] = std::move(value);
}

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
  add_fields(json, descriptor.fields, method);
  json["backend"] = to_string(descriptor.get_backend(method));
  return json;
}

ordered_json to_json(const SparseAttentionConfig& config) {
  ordered_json json = ordered_json::object();
  if (!config.name.empty()) json["name"] = config.name;
  if (!config.description.empty()) json["description"] = config.description;
  ordered_json& sparse_cfg = json["sparse_cfg"] = ordered_json::object();
  if (config.calibration) add_fields(sparse_cfg["calibration"], calibration_fields(), *config.calibration);
  for (const PatternRule& entry : config.rules) sparse_cfg[entry.pattern] = to_json(entry.rule);
  sparse_cfg["default"] = to_json(config.default_rule);
  return json;
}

}  // namespace modelopt::config
