#include <modelopt/checkpoint/export/saved_sparsity.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include <modelopt/attention/attention_slot.h>
#include <modelopt/checkpoint/model_directory.h>
#include <modelopt/config/parse.h>
#include <modelopt/error.h>
#include <modelopt/util/file.h>
#include <modelopt/util/ordered_json.h>
#include <modelopt/util/version.h>

namespace modelopt::checkpoint {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kStateFormat = 1;
constexpr std::string_view kSparsityKey = "sparse_attention_config";

// Our parameter names beside those of the groups.
constexpr std::array<std::pair<const char*, const char*>, 4> kGroupKeys = {{
    {"sparsity_n", "sparsity_n"},
    {"sparsity_m", "sparsity_m"},
    {"num_sink_tokens", "dense_sink_tokens"},
    {"dense_window_size", "dense_recent_tokens"},
}};

struct Group {
  Json parameters;  // under the groups' names
  std::set<std::string> targets;
  std::vector<std::string> modules;
};

// One group per parameter set, in the order of the modules. Sparsity that is off (0:M) is dense to every reader.
std::vector<Group> group_modules(const SparsifyReport& report) {
  std::vector<Group> groups;
  for (const auto& module : report.modules) {
    if (!module.is_sparse()) continue;
    MODELOPT_CHECK(module.method == "sparse_softmax", Unsupported, module.name, ": the method ", module.method,
                   " has no form in sparse_attention_config, expected sparse_softmax");
    const Json resolved = Json::parse(module.parameters);
    if (resolved.at("sparsity_n") == 0) continue;
    Json parameters;
    for (const auto& [ours, theirs] : kGroupKeys) parameters[theirs] = resolved.at(ours);
    auto group =
        std::find_if(groups.begin(), groups.end(), [&](const Group& other) { return other.parameters == parameters; });
    if (group == groups.end()) group = groups.insert(groups.end(), Group{parameters, {}, {}});
    group->targets.insert(module.class_name);
    group->modules.push_back(module.name);
  }
  return groups;
}

// Modules of the group's classes that do not belong to it.
std::vector<std::string> ignored_modules(const Group& group, const SparsifyReport& report) {
  const std::set<std::string> members(group.modules.begin(), group.modules.end());
  std::vector<std::string> ignored;
  for (const auto& module : report.modules)
    if (group.targets.contains(module.class_name) && !members.contains(module.name)) ignored.push_back(module.name);
  return ignored;
}

Json module_state(const ModuleReport& module) {
  if (!module.is_sparse()) return nullptr;
  return {{"method", module.method}, {"parameters", Json::parse(module.parameters)}};
}

// --- reading ------------------------------------------------------------------------------------------------------

struct AttentionModule {
  std::string name;
  std::string class_name;
};

std::vector<AttentionModule> attention_modules(const torch::nn::Module& model) {
  std::vector<AttentionModule> found;
  for (const auto& item : model.named_modules())
    if (const auto* owner = dynamic_cast<const attention::AttentionSlotOwner*>(item.value().get()))
      found.push_back({item.key(), owner->attention_traits().class_name});
  return found;
}

const Json& member(const Json& object, std::string_view key, Json::value_t type, const std::string& where) {
  const auto found = object.find(key);
  MODELOPT_CHECK(found != object.end(), DataError, where, ": the key ", key, " is missing");
  MODELOPT_CHECK(found->type() == type, DataError, where, ".", key, ": is ", found->type_name(), ", expected ",
                 Json(type).type_name());
  return *found;
}

void allow_keys(const Json& object, const std::set<std::string_view>& known, const std::string& where) {
  MODELOPT_CHECK(object.is_object(), DataError, where, ": is ", object.type_name(), ", expected an object");
  for (const auto& [key, value] : object.items())
    MODELOPT_CHECK(known.contains(key), DataError, where, ": the key ", key, " is not understood");
}

// The value of `sparse_attention_config`; null if there is none.
Json read_sparsity_json(const std::filesystem::path& path) {
  const Json config = parse_ordered_json(read_file(path), path.string());
  MODELOPT_CHECK(config.is_object(), DataError, path.string(), ": $: is ", config.type_name(), ", expected an object");
  const auto found = config.find(kSparsityKey);
  return found == config.end() ? Json() : *found;
}

SavedSparsity read_state(const Json& state, const std::string& where, const std::vector<AttentionModule>& model) {
  allow_keys(state, {"format", "config", "modules"}, where);
  MODELOPT_CHECK(state.contains("format") && state["format"] == kStateFormat, DataError, where,
                 ".format: ", state.value("format", Json()).dump(), ", expected ", kStateFormat,
                 ", the one that this version reads");
  SavedSparsity saved;
  saved.config_json = member(state, "config", Json::value_t::object, where).dump();
  saved.origin = where;
  const Json& modules = member(state, "modules", Json::value_t::object, where);
  for (const auto& module : model)
    MODELOPT_CHECK(modules.contains(module.name), DataError, where, ".modules: the model's ", module.name,
                   " is missing");
  for (const auto& [name, resolved] : modules.items()) {
    const bool exists =
        std::any_of(model.begin(), model.end(), [&](const auto& module) { return module.name == name; });
    MODELOPT_CHECK(exists, DataError, where, ".modules: ", name, " is no attention module of this model");
    saved.modules[name] = resolved.dump();
  }
  return saved;
}

std::set<std::string> strings(const Json& array, const std::string& where) {
  std::set<std::string> result;
  for (const auto& element : array) {
    MODELOPT_CHECK(element.is_string(), DataError, where, ": ", element.dump(), ", expected a string");
    result.insert(element.get<std::string>());
  }
  return result;
}

// The modules of one group of `config_groups`, as rules of a configuration.
void translate_group(const Json& group, const std::string& where, const std::vector<AttentionModule>& model,
                     Json& rules) {
  MODELOPT_CHECK(group.is_object(), DataError, where, ": is ", group.type_name(), ", expected an object");
  const auto algorithm = member(group, "algorithm", Json::value_t::string, where).get<std::string>();
  MODELOPT_CHECK(algorithm == "sparse_softmax" || algorithm == "triton_sparse_softmax", DataError, where,
                 ".algorithm: ", algorithm, " cannot be honoured by this version, expected sparse_softmax");
  std::set<std::string_view> known = {"algorithm", "targets", "ignore"};
  Json rule = {{"method", algorithm}, {"enable", true}};
  for (const auto& [ours, theirs] : kGroupKeys) {
    known.insert(theirs);
    if (group.contains(theirs)) rule[ours] = group[theirs];
  }
  allow_keys(group, known, where);
  const auto targets = strings(member(group, "targets", Json::value_t::array, where), where + ".targets");
  const auto ignore = group.contains("ignore")
                          ? strings(member(group, "ignore", Json::value_t::array, where), where + ".ignore")
                          : std::set<std::string>();
  for (const auto& target : targets) {
    const bool exists =
        std::any_of(model.begin(), model.end(), [&](const auto& module) { return module.class_name == target; });
    MODELOPT_CHECK(exists, DataError, where, ".targets: the model has no attention module of class ", target);
  }
  for (const auto& name : ignore) {
    const bool exists =
        std::any_of(model.begin(), model.end(), [&](const auto& module) { return module.name == name; });
    MODELOPT_CHECK(exists, DataError, where, ".ignore: ", name, " is no attention module of this model");
  }
  for (const auto& module : model) {
    if (!targets.contains(module.class_name) || ignore.contains(module.name)) continue;
    MODELOPT_CHECK(!rules.contains(module.name), DataError, where, ": ", module.name,
                   " belongs to an earlier group already");
    rules[module.name] = rule;
  }
}

SavedSparsity translate_groups(const Json& sparsity, const std::string& where,
                               const std::vector<AttentionModule>& model) {
  allow_keys(sparsity, {"config_groups", "producer"}, where);
  Json rules = Json::object();
  for (const auto& [name, group] : member(sparsity, "config_groups", Json::value_t::object, where).items())
    translate_group(group, json_path(where + ".config_groups", name), model, rules);
  rules["default"] = {{"enable", false}};
  return {.config_json = Json{{"sparse_cfg", rules}}.dump(), .origin = where, .modules = {}};
}

config::SparseAttentionConfig parse_saved(const SavedSparsity& saved, const std::vector<std::string>& overrides) {
  try {
    return config::parse_config(saved.config_json, saved.origin, overrides);
  } catch (const ConfigError& error) {
    if (!overrides.empty()) throw;
    throw DataError(error.what());  // the file's fault, not the caller's
  }
}

}  // namespace

Json to_sparse_attention_config(const config::SparseAttentionConfig& config, const SparsifyReport& report) {
  Json groups = Json::object();
  for (const Group& group : group_modules(report)) {
    Json entry = {{"algorithm", "sparse_softmax"}, {"targets", group.targets}};
    entry.update(group.parameters);
    entry["ignore"] = ignored_modules(group, report);
    groups["group_" + std::to_string(groups.size())] = std::move(entry);
  }
  Json modules = Json::object();
  for (const auto& module : report.modules) modules[module.name] = module_state(module);
  Json result;
  result["config_groups"] = std::move(groups);
  result["producer"] = {{"name", "modelopt"}, {"version", std::string(version())}};
  result[std::string(kSavedStateKey)] = {
      {"format", kStateFormat}, {"config", config::to_json(config)}, {"modules", std::move(modules)}};
  return result;
}

std::vector<std::string> upstream_differences(const SparsifyReport& report) {
  const std::vector<Group> groups = group_modules(report);
  std::vector<std::string> sentences;
  if (groups.empty()) return sentences;
  if (groups.size() > 1)
    sentences.push_back(str("Model-Optimizer's reader knows one N:M group: it would apply the first of ", groups.size(),
                            " to all modules"));
  const std::size_t members = groups.size() == 1 ? groups.front().modules.size() : 0;
  if (groups.size() == 1 && members < report.modules.size())
    sentences.push_back(str("Model-Optimizer's reader does not look at \"ignore\" in N:M groups: it would sparsify ",
                            report.modules.size() - members, " modules too that are dense here"));
  return sentences;
}

bool carries_sparsity(const std::filesystem::path& directory) {
  return !read_sparsity_json(model_file(directory, "config.json")).is_null();
}

std::optional<SavedSparsity> read_saved_sparsity(const std::filesystem::path& directory, torch::nn::Module& model) {
  const std::filesystem::path path = model_file(directory, "config.json");
  const Json sparsity = read_sparsity_json(path);
  if (sparsity.is_null()) return std::nullopt;
  const std::string where = str(path.string(), ": $.", kSparsityKey);
  MODELOPT_CHECK(sparsity.is_object(), DataError, where, ": is ", sparsity.type_name(), ", expected an object");
  const auto modules = attention_modules(model);
  if (const auto state = sparsity.find(kSavedStateKey); state != sparsity.end())
    return read_state(*state, str(where, ".", kSavedStateKey), modules);
  return translate_groups(sparsity, where, modules);
}

RestoredSparsity restore_sparsity(torch::nn::Module& model, const SavedSparsity& saved, const SparsifyOptions& options,
                                  const std::vector<std::string>& overrides) {
  RestoredSparsity restored;
  restored.config = parse_saved(saved, overrides);
  restored.report = sparsify(model, restored.config, options);
  if (!overrides.empty() || saved.modules.empty()) return restored;
  for (const auto& module : restored.report.modules) {
    const Json expected = Json::parse(saved.modules.at(module.name));
    MODELOPT_CHECK(module_state(module) == expected, DataError, saved.origin, ".modules: ", module.name,
                   " was saved as ", expected.dump(), ", but its configuration gives ", module_state(module).dump());
  }
  return restored;
}

}  // namespace modelopt::checkpoint
