#include <modelopt/config/schema.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include <modelopt/config/enumeration.h>
#include <modelopt/config/method_descriptor.h>

namespace modelopt::config {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kSparseCfg =
    "Rules by pattern: a shell-style pattern of module names (`*` matches dots too), or the name of a class. They "
    "apply to "
    "attention modules only, in the order of the file; a later match replaces an earlier one whole.";
constexpr std::string_view kDefaultRule = "The rule of attention modules that no pattern matches; dense if absent.";
constexpr std::string_view kCalibration =
    "How `modelopt calibrate` is to find the thresholds of the skip-softmax rules. Applying a configuration that has "
    "this block and no calibration is an error.";
constexpr std::string_view kEnable = "false leaves the modules of this rule dense.";
constexpr std::string_view kMethod = "The method, by its name or an alias.";
constexpr std::string_view kBackend =
    "fused (alias triton) runs in the attention operator; eager (alias pytorch) replaces the softmax of attention "
    "computed "
    "with ATen operations: slow, for comparison.";
constexpr std::string_view kName = "A name for reports.";
constexpr std::string_view kDescription = "One sentence of purpose.";
constexpr std::string_view kSchema = "Address of this schema, for editors.";

ordered_json described(std::string_view type, std::string_view description) {
  return {{"type", type}, {"description", description}};
}

ordered_json ref(std::string_view definition) { return {{"$ref", str("#/$defs/", definition)}}; }

ordered_json spellings(const std::vector<MethodBackend>& backends) {
  ordered_json list = ordered_json::array();
  for (const MethodBackend backend : backends) {
    list.push_back(to_string(backend));
    list.push_back(backend == MethodBackend::kFused ? "triton" : "pytorch");
  }
  return list;
}

template <typename Owner>
ordered_json field_schema(const Field<Owner>& field, const Owner& defaults) {
  ordered_json json = {{"title", field.title}, {"description", field.description}};
  json.update(field.domain.schema);
  if (field.nullable) {
    ordered_json nullable = {{"title", field.title}, {"description", field.description}};
    nullable["anyOf"] = {field.domain.schema, {{"type", "null"}}};
    json = std::move(nullable);
  }
  if (ordered_json value = field.get(defaults); !value.is_null()) json["default"] = std::move(value);
  return json;
}

template <typename Owner>
ordered_json field_properties(const std::vector<Field<Owner>>& fields, const Owner& defaults) {
  ordered_json properties = ordered_json::object();
  for (const Field<Owner>& field : fields) {
    properties[std::string(field.name)] = field_schema(field, defaults);
    if (field.alias.empty()) continue;
    properties[std::string(field.alias)] = field_schema(field, defaults);
    properties[std::string(field.alias)]["description"] = str("Alias of ", field.name, ".");
  }
  return properties;
}

ordered_json method_names(const MethodDescriptor& method) {
  ordered_json names = {method.name};
  for (const MethodAlias& alias : method.aliases) names.push_back(alias.name);
  return names;
}

// "if KEY is VALUE": where the key may be absent, only if that means the same.
ordered_json if_equal(std::string_view key, const ordered_json& value, bool is_default) {
  ordered_json condition = {{"properties", {{key, {{"const", value}}}}}};
  if (!is_default) condition["required"] = {key};
  return condition;
}

// What ties several keys of a rule together.
ordered_json method_conditions(const MethodDescriptor& method) {
  ordered_json conditions = ordered_json::array();
  for (const Field<MethodConfig>& field : method.fields) {
    if (!field.alias.empty()) conditions.push_back({{"not", {{"required", {field.name, field.alias}}}}});
    for (const Field<MethodConfig>& other : method.fields) {
      if (&other == &field) break;
      if (!field.one_of.empty() && field.one_of == other.one_of)
        conditions.push_back({{"not", {{"required", {other.name, field.name}}}}});
    }
    if (field.below.empty()) continue;
    const auto bound = std::find_if(method.fields.begin(), method.fields.end(),
                                    [&](const Field<MethodConfig>& other) { return other.name == field.below; });
    for (const std::int64_t value : bound->domain.choices) {
      conditions.push_back({{"if", if_equal(bound->name, value, bound->get(method.defaults) == value)},
                            {"then", {{"properties", {{field.name, {{"maximum", value - 1}}}}}}}});
    }
  }
  for (const MethodAlias& alias : method.aliases) {
    if (!alias.backend) continue;
    conditions.push_back({{"if", if_equal("method", alias.name, false)},
                          {"then", {{"properties", {{"backend", {{"enum", spellings({*alias.backend})}}}}}}}});
  }
  return conditions;
}

ordered_json method_schema(const MethodDescriptor& method) {
  ordered_json properties = {{"method", {{"description", kMethod}, {"enum", method_names(method)}}}};
  properties.update(field_properties(method.fields, method.defaults));
  properties["backend"] = {{"description", kBackend},
                           {"enum", spellings(method.backends)},
                           {"default", to_string(method.get_backend(method.defaults))}};
  properties["enable"] = described("boolean", kEnable);
  properties["enable"]["default"] = true;
  return {{"title", method.title},
          {"description", method.description},
          {"type", "object"},
          {"properties", std::move(properties)},
          {"required", {"method"}},
          {"additionalProperties", false},
          {"allOf", method_conditions(method)}};
}

ordered_json dense_schema() {
  return {{"title", "Dense"},       {"description", "No method: the modules of this rule stay dense."},
          {"type", "object"},       {"properties", {{"enable", {{"const", false}, {"description", kEnable}}}}},
          {"required", {"enable"}}, {"additionalProperties", false}};
}

ordered_json calibration_schema() {
  ordered_json json = described("object", kCalibration);
  json["properties"] = field_properties(calibration_fields(), CalibrationConfig{});
  json["additionalProperties"] = false;
  return json;
}

// --- Markdown ----------------------------------------------------------------------------------------------

std::string code(std::string_view text) { return str('`', text, '`'); }

std::string row(const std::vector<std::string>& cells) {
  std::string line = "|";
  for (const std::string& cell : cells) line += " " + cell + " |";
  return line + "\n";
}

std::string header(const std::vector<std::string>& cells) {
  std::string line = row(cells) + "|";
  for (std::size_t i = 0; i < cells.size(); ++i) line += " --- |";
  return line + "\n";
}

template <typename Owner>
std::string field_rows(const std::vector<Field<Owner>>& fields, const Owner& defaults) {
  std::string rows;
  for (const Field<Owner>& field : fields) {
    const ordered_json value = field.get(defaults);
    const std::string values = field.below.empty() ? field.domain.expectation
                                                   : str(field.domain.expectation, ", less than ", code(field.below));
    rows += row({code(field.name), field.alias.empty() ? "" : code(field.alias), values,
                 value.is_null() ? "" : code(value.dump()), std::string(field.description)});
  }
  return rows;
}

std::string method_markdown(const MethodDescriptor& method) {
  std::vector<std::string> names = {code(method.name)};
  for (const MethodAlias& alias : method.aliases) {
    names.push_back(code(alias.name));
    if (alias.backend) names.back() += str(" (backend ", code(to_string(*alias.backend)), " only)");
  }
  std::string text = str("### ", method.title, "\n\n`method`: ", one_of(names), ". ", method.description, "\n\n");
  text += header({"key", "alias", "values", "default", "meaning"});
  text += field_rows(method.fields, method.defaults);
  std::vector<std::string> backends;
  for (const MethodBackend backend : method.backends) backends.push_back(code(to_string(backend)));
  text += row({code("backend"), "", one_of(backends), code(to_string(method.get_backend(method.defaults))),
               std::string(kBackend)});
  return text;
}

}  // namespace

ordered_json configuration_schema() {
  ordered_json definitions = {{"dense", dense_schema()}};
  ordered_json rules = {ref("dense")};
  for (const MethodDescriptor& method : method_descriptors()) {
    definitions[std::string(method.name)] = method_schema(method);
    rules.push_back(ref(method.name));
  }
  definitions["rule"] = {{"oneOf", std::move(rules)}};

  ordered_json default_rule = ref("rule");
  default_rule["description"] = kDefaultRule;
  ordered_json sparse_cfg = described("object", kSparseCfg);
  sparse_cfg["properties"] = {{"default", std::move(default_rule)}, {"calibration", calibration_schema()}};
  sparse_cfg["propertyNames"] = {{"minLength", 1}};
  sparse_cfg["additionalProperties"] = ref("rule");

  return {{"$schema", "https://json-schema.org/draft/2020-12/schema"},
          {"title", "Sparse attention configuration of modelopt"},
          {"type", "object"},
          {"properties",
           {{"$schema", described("string", kSchema)},
            {"name", described("string", kName)},
            {"description", described("string", kDescription)},
            {"sparse_cfg", std::move(sparse_cfg)}}},
          {"required", {"sparse_cfg"}},
          {"additionalProperties", false},
          {"$defs", std::move(definitions)}};
}

std::string configuration_reference_markdown() {
  std::string text = "### The file\n\n" + header({"key", "values", "meaning"});
  text += row({code("sparse_cfg"), "object, required", std::string(kSparseCfg)});
  text += row({code("name"), "string", std::string(kName)});
  text += row({code("description"), "string", std::string(kDescription)});
  text += row({code("$schema"), "string", std::string(kSchema)});
  text += "\n### Keys of `sparse_cfg`\n\n" + header({"key", "values", "meaning"});
  text += row({"any pattern", "rule", "The rule of the attention modules that the pattern matches."});
  text += row({code("default"), "rule", std::string(kDefaultRule)});
  text += row({code("calibration"), "object", std::string(kCalibration)});
  text += "\n### Keys of every rule\n\n" + header({"key", "values", "default", "meaning"});
  text += row({code("enable"), "true or false", code("true"), std::string(kEnable)});
  text += row({code("method"), known_method_names(), "required if enabled", std::string(kMethod)});
  for (const MethodDescriptor& method : method_descriptors()) text += "\n" + method_markdown(method);
  text += "\n### Keys of `calibration`\n\n" + header({"key", "alias", "values", "default", "meaning"});
  text += field_rows(calibration_fields(), CalibrationConfig{});
  return text;
}

}  // namespace modelopt::config
