#include <modelopt/sparsify/sparsity_state.h>

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include <modelopt/config/parse.h>
#include <modelopt/error.h>
#include <modelopt/sparsify/attention_modules.h>
#include <modelopt/sparsify/slot_guard.h>
#include <modelopt/util/file.h>
#include <modelopt/util/ordered_json.h>
#include <modelopt/util/version.h>

namespace modelopt {
namespace {

using Json = nlohmann::ordered_json;

Json method_of(const ModuleReport& module) {
  return {{"method", module.method}, {"parameters", Json::parse(module.parameters)}};
}

// Two values are the same whatever the order of their keys.
bool equal(const Json& a, const Json& b) { return nlohmann::json(a) == nlohmann::json(b); }

// --- reading ------------------------------------------------------------------------------------------------------

const Json& member(const Json& object, std::string_view key, Json::value_t type, const std::string& where) {
  const auto found = object.find(key);
  MODELOPT_CHECK(found != object.end(), DataError, where, ": the key ", key, " is missing");
  MODELOPT_CHECK(found->type() == type, DataError, where, ".", key, ": is ", found->type_name(), ", expected ",
                 Json(type).type_name());
  return *found;
}

void allow_keys(const Json& object, std::initializer_list<std::string_view> known, const std::string& where) {
  MODELOPT_CHECK(object.is_object(), DataError, where, ": is ", object.type_name(), ", expected an object");
  for (const auto& [key, value] : object.items())
    MODELOPT_CHECK(std::find(known.begin(), known.end(), key) != known.end(), DataError, where, ": the key ", key,
                   " is not understood");
}

void check_format(const Json& state, const std::string& where) {
  MODELOPT_CHECK(state.is_object(), DataError, where, ": is ", state.type_name(), ", expected an object");
  const auto format = state.find("format");
  MODELOPT_CHECK(format != state.end() && format->is_number_integer() && *format >= 1, DataError, where,
                 ".format: ", format == state.end() ? "missing" : format->dump(), ", expected ", kSparsityStateFormat);
  const auto writer = state.find("version");
  MODELOPT_CHECK(*format <= kSparsityStateFormat, DataError, where, ".format: ", format->dump(),
                 ", written by a newer version", writer == state.end() ? "" : str(" (", writer->dump(), ")"),
                 ", expected at most ", kSparsityStateFormat, ", which is what ", version(), " reads");
}

config::SparseAttentionConfig read_config(const Json& state, const std::string& where,
                                          const std::vector<std::string>& overrides) {
  try {
    return config::parse_config(member(state, "config", Json::value_t::object, where).dump(), where, overrides);
  } catch (const ConfigError& error) {
    if (!overrides.empty()) throw;
    throw DataError(error.what());  // the file's fault, not the caller's
  }
}

// The method that the state has for a module; null: dense.
Json saved_method(const Json& state, const std::string& name, const std::string& where) {
  const Json& methods = member(state, "methods", Json::value_t::array, where);
  const Json& index = state["modules"][name]["method"];
  if (index.is_null()) return nullptr;
  const bool exists = index.is_number_integer() && index >= 0 && index.get<std::size_t>() < methods.size();
  MODELOPT_CHECK(exists, DataError, where, ".modules[", Json(name).dump(), "].method: ", index.dump(),
                 ", expected null or an index of the ", methods.size(), " methods");
  const Json& method = methods[index.get<std::size_t>()];
  const std::string path = str(where, ".methods[", index.dump(), "]");
  allow_keys(method, {"method", "parameters"}, path);
  member(method, "method", Json::value_t::string, path);
  member(method, "parameters", Json::value_t::object, path);
  return method;
}

void check_modules(const Json& state, const std::vector<AttentionModule>& model, const std::string& where) {
  const Json& modules = member(state, "modules", Json::value_t::object, where);
  for (const auto& [name, saved] : modules.items()) {
    const std::string path = str(where, ".modules[", Json(name).dump(), "]");
    allow_keys(saved, {"class", "method"}, path);
    const std::string class_name = member(saved, "class", Json::value_t::string, path).get<std::string>();
    MODELOPT_CHECK(saved.contains("method"), DataError, path, ": the key method is missing");
    const auto module =
        std::find_if(model.begin(), model.end(), [&name = name](const auto& known) { return known.name == name; });
    MODELOPT_CHECK(module != model.end(), DataError, path, ": this model has no such attention module");
    const std::string own_class = module->owner->attention_traits().class_name;
    MODELOPT_CHECK(own_class == class_name, DataError, path, ".class: ", class_name, ", expected ", own_class,
                   ", the class of this model's module");
  }
  for (const AttentionModule& module : model)
    MODELOPT_CHECK(modules.contains(module.name), DataError, where, ".modules: ", module.name,
                   ", an attention module of this model, is missing");
}

std::string method_name(const Json& method) {
  return method.is_null() ? "dense" : method.at("method").get<std::string>();
}

// What a module had and has now, where that is not the same: the method, or the first parameter that differs.
std::optional<std::string> difference(const Json& saved, const Json& restored) {
  if (equal(saved, restored)) return std::nullopt;
  const std::string expectation = ", but the configuration gives ";
  if (method_name(saved) != method_name(restored))
    return str("was saved as ", method_name(saved), expectation, method_name(restored));
  Json all = saved.at("parameters");
  all.update(restored.at("parameters"));
  const auto value_of = [](const Json& method, const std::string& key) {
    const auto found = method.at("parameters").find(key);
    return found == method.at("parameters").end() ? Json() : *found;
  };
  for (const auto& [key, value] : all.items()) {
    const Json before = value_of(saved, key), after = value_of(restored, key);
    if (!equal(before, after)) return str(key, " was saved as ", shown(before), expectation, shown(after));
  }
  return std::nullopt;
}

void check_outcome(const Json& state, const SparsifyReport& report, const std::string& where) {
  for (const ModuleReport& module : report.modules) {
    const Json restored = module.is_sparse() ? method_of(module) : Json();
    const auto differs = difference(saved_method(state, module.name, where), restored);
    MODELOPT_CHECK(!differs, DataError, where, ".modules[", Json(module.name).dump(), "]: ", *differs);
  }
}

}  // namespace

Json sparsity_state(const config::SparseAttentionConfig& config, const SparsifyReport& report) {
  Json methods = Json::array();
  Json modules = Json::object();
  for (const ModuleReport& module : report.modules) {
    Json index;  // null
    if (module.is_sparse()) {
      Json method = method_of(module);
      const auto known = std::find(methods.begin(), methods.end(), method);
      index = known - methods.begin();
      if (known == methods.end()) methods.push_back(std::move(method));
    }
    modules[module.name] = {{"class", module.class_name}, {"method", std::move(index)}};
  }
  return {{"format", kSparsityStateFormat},
          {"version", version()},
          {"config", config::to_json(config)},
          {"methods", std::move(methods)},
          {"modules", std::move(modules)}};
}

RestoredSparsity restore_sparsity_state(torch::nn::Module& model, const Json& state, const std::string& where,
                                        const SparsifyOptions& options, const std::vector<std::string>& overrides) {
  check_format(state, where);
  allow_keys(state, {"format", "version", "config", "methods", "modules"}, where);
  RestoredSparsity restored{.config = read_config(state, where, overrides), .report = {}};
  const std::vector<AttentionModule> modules = attention_modules(model);
  check_modules(state, modules, where);
  SlotGuard guard(modules);
  SparsifyOptions as_saved = options;
  as_saved.allow_unmatched = true;  // a pattern is unmatched only if that was allowed when the state was made
  restored.report = sparsify(model, restored.config, as_saved);
  if (overrides.empty()) check_outcome(state, restored.report, where);
  guard.keep();
  return restored;
}

void save_sparsity_state(const std::filesystem::path& path, const config::SparseAttentionConfig& config,
                         const SparsifyReport& report) {
  write_file_atomically(path, sparsity_state(config, report).dump(2) + "\n");
}

RestoredSparsity restore_sparsity_state(torch::nn::Module& model, const std::filesystem::path& path,
                                        const SparsifyOptions& options, const std::vector<std::string>& overrides) {
  return restore_sparsity_state(model, parse_ordered_json(read_file(path), path.string()), str(path.string(), ": $"),
                                options, overrides);
}

}  // namespace modelopt
