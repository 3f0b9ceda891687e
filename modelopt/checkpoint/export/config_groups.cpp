#include <modelopt/checkpoint/export/config_groups.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include <modelopt/checkpoint/json_object.h>
#include <modelopt/config/method_descriptor.h>
#include <modelopt/error.h>

namespace modelopt::checkpoint {
namespace {

using Json = nlohmann::ordered_json;
using config::SparseSoftmaxConfig;

constexpr std::int64_t kMaxSteps = std::numeric_limits<std::int32_t>::max();
constexpr std::string_view kFormula = "a * exp(b * target_sparsity)";

// The format's names of N:M parameters; ours, where they differ, are in `config`.
struct SparseSoftmaxKey {
  const char* key;
  std::string_view field;
  std::int64_t SparseSoftmaxConfig::*member;
};

constexpr std::array<SparseSoftmaxKey, 4> kSparseSoftmaxKeys = {{
    {"sparsity_n", "sparsity_n", &SparseSoftmaxConfig::sparsity_n},
    {"sparsity_m", "sparsity_m", &SparseSoftmaxConfig::sparsity_m},
    {"dense_sink_tokens", "num_sink_tokens", &SparseSoftmaxConfig::num_sink_tokens},
    {"dense_recent_tokens", "dense_window_size", &SparseSoftmaxConfig::dense_window_size},
}};

enum class Algorithm { kSkipSoftmax, kSparseSoftmax };

std::optional<Algorithm> algorithm_of(std::string_view name) {
  if (name == "skip_softmax" || name == "softmax_skip") return Algorithm::kSkipSoftmax;
  if (name == "sparse_softmax" || name == "triton_sparse_softmax") return Algorithm::kSparseSoftmax;
  return std::nullopt;
}

bool same_formula(std::string written, std::string expected) {
  std::erase(written, ' ');
  std::erase(expected, ' ');
  return written == expected;
}

SparseSoftmaxConfig read_sparse_softmax(JsonObject& object) {
  SparseSoftmaxConfig parameters;
  for (const auto& [key, field, member] : kSparseSoftmaxKeys)
    parameters.*member = object.integer(key, parameters.*member, IntegerRange{});
  for (const config::FieldProblem& problem : config::validate(parameters)) {
    const auto wrong = std::find_if(kSparseSoftmaxKeys.begin(), kSparseSoftmaxKeys.end(),
                                    [&](const auto& known) { return known.field == problem.field; });
    object.fail(wrong->key, problem.expectation);
  }
  return parameters;
}

// A target is a number for both phases or an object that gives one per phase.
double read_target(JsonObject& object, std::string_view key, std::string_view phase) {
  const auto is_target = [](const Json& value) {
    return value.is_number() && value.get<double>() > 0.0 && value.get<double>() < 1.0;
  };
  constexpr std::string_view kExpected = "a number > 0 and < 1";
  const Json& value = object.required(key);
  if (!value.is_object()) {
    if (!is_target(value)) object.fail(key, str(kExpected, ", or an object with one for prefill and decode"));
    return value.get<double>();
  }
  JsonObject phases(value, object.origin(), object.path_of(key));
  phases.ignore({"prefill", "decode"});
  phases.expect_no_other_keys();
  const Json* target = phases.find(phase);
  if (target == nullptr) return kDefaultTargetSparsity;
  if (!is_target(*target)) phases.fail(phase, kExpected);
  return target->get<double>();
}

// One group. What older files keep beside the groups is looked up in `shared`.
class GroupReader {
 public:
  GroupReader(JsonObject& group, std::string path, JsonObject* shared)
      : group_(group), path_(std::move(path)), shared_(shared) {}

  // A group alone, without `config_groups`, may leave out what its other keys imply.
  ConfigGroup read(bool alone) {
    const Algorithm algorithm = read_algorithm(alone);
    ConfigGroup result;
    result.where = str(group_.origin(), ": ", path_);
    if (algorithm == Algorithm::kSkipSoftmax)
      result.parameters = read_skip_softmax();
    else
      result.parameters = read_sparse_softmax();
    read_modules(alone, result);
    return result;
  }

 private:
  struct Found {
    JsonObject* object;
    std::string_view key;
  };

  // The one of these keys that is there, in the group or beside the groups.
  std::optional<Found> find(std::initializer_list<std::string_view> names) {
    std::optional<Found> found;
    for (JsonObject* object : {&group_, shared_}) {
      if (object == nullptr) continue;
      for (const std::string_view name : names) {
        if (object->find(name) == nullptr) continue;
        if (found) object->fail(name, str("it once: ", found->object->path_of(found->key), " says it too"));
        found = Found{object, name};
      }
    }
    return found;
  }

  Algorithm read_algorithm(bool alone) {
    std::optional<Found> found;
    for (const std::string_view name : {"algorithm", "sparse_algo"}) {
      if (group_.find(name) == nullptr) continue;
      if (found) group_.fail(name, str("it once: ", group_.path_of(found->key), " says it too"));
      found = Found{&group_, name};
    }
    if (!found && alone && group_.contains("threshold_scale_factor")) return Algorithm::kSkipSoftmax;
    if (!found && alone) static_cast<void>(group_.required("config_groups"));
    const std::string_view key = found ? found->key : "algorithm";
    const auto algorithm = algorithm_of(group_.string(key));
    if (!algorithm) group_.fail(key, "skip_softmax or sparse_softmax, which are all that can be honoured");
    return *algorithm;
  }

  SkipSoftmaxParameters read_skip_softmax() {
    SkipSoftmaxParameters parameters;
    const auto found = find({"threshold_scale_factor"});
    if (!found) static_cast<void>(group_.required("threshold_scale_factor"));
    JsonObject factors(found->object->required(found->key), group_.origin(), found->object->path_of(found->key));
    const auto formula = factors.optional_string("formula");
    if (formula && !same_formula(*formula, std::string(kFormula)))
      factors.fail("formula", str(kFormula, ", which is all that can be honoured"));
    parameters.prefill = read_phase(factors, "prefill");
    parameters.decode = read_phase(factors, "decode");
    factors.expect_no_other_keys();
    if (!parameters.prefill && !parameters.decode)
      found->object->fail(found->key, "coefficients a and b of prefill, of decode, or of both");
    if (const auto steps = find({"initial_disabled_steps", "disabled_until_timestep"}))
      parameters.initial_disabled_steps = steps->object->integer(steps->key, {.most = kMaxSteps});
    return parameters;
  }

  // The target of a phase without coefficients has no meaning: Model-Optimizer writes both of what was asked for.
  std::optional<SkipSoftmaxPhase> read_phase(JsonObject& factors, std::string_view phase) {
    const auto target = find({"target_sparsity", "target_sparse_ratio"});
    auto coefficients = factors.optional_object(phase);
    if (!coefficients) return std::nullopt;
    SkipSoftmaxPhase result{.a = coefficients->number("a", NumberRange::kPositive),
                            .b = coefficients->number("b", NumberRange::kPositive)};
    coefficients->expect_no_other_keys();
    if (target) result.target_sparsity = read_target(*target->object, target->key, phase);
    return result;
  }

  SparseSoftmaxConfig read_sparse_softmax() {
    const Json* shared = shared_ == nullptr ? nullptr : shared_->find("sparse_softmax");
    if (shared == nullptr) return checkpoint::read_sparse_softmax(group_);
    JsonObject parameters(*shared, group_.origin(), shared_->path_of("sparse_softmax"));
    const SparseSoftmaxConfig result = checkpoint::read_sparse_softmax(parameters);
    parameters.expect_no_other_keys();
    return result;
  }

  void read_modules(bool alone, ConfigGroup& result) {
    if (!alone || group_.contains("targets")) {
      static_cast<void>(group_.required("targets"));
      const auto targets = group_.optional_strings("targets");
      if (!targets || targets->empty()) group_.fail("targets", "class names of attention modules");
      result.targets = std::set<std::string>(targets->begin(), targets->end());
    }
    for (JsonObject* object : {&group_, shared_}) {
      if (object == nullptr) continue;
      const auto ignore = object->optional_strings("ignore");
      if (ignore) result.ignore.insert(result.ignore.end(), ignore->begin(), ignore->end());
    }
  }

  JsonObject& group_;
  std::string path_;
  JsonObject* shared_;
};

// `sparse_softmax` beside groups of which none has that algorithm: the N:M sparsity of the modules that skip.
void add_implied_sparse_softmax(JsonObject& top, std::vector<ConfigGroup>& groups) {
  const bool read_already = std::any_of(groups.begin(), groups.end(), [](const ConfigGroup& group) {
    return std::holds_alternative<SparseSoftmaxConfig>(group.parameters);
  });
  const Json* value = read_already ? nullptr : top.find("sparse_softmax");
  if (value == nullptr) return;
  if (groups.empty()) top.fail("sparse_softmax", "groups in config_groups that it belongs to");
  JsonObject object(*value, top.origin(), top.path_of("sparse_softmax"));
  const SparseSoftmaxConfig parameters = read_sparse_softmax(object);
  object.expect_no_other_keys();
  const std::size_t count = groups.size();
  for (std::size_t i = 0; i < count; ++i) {
    ConfigGroup implied = groups[i];
    implied.where = str(top.origin(), ": ", top.path_of("sparse_softmax"));
    implied.parameters = parameters;
    groups.push_back(std::move(implied));
  }
}

Json to_json(const SkipSoftmaxParameters& parameters) {
  Json factors = {{"formula", kFormula}};
  Json target = Json::object();
  const auto add = [&](const char* phase, const std::optional<SkipSoftmaxPhase>& value) {
    if (!value) return;
    factors[phase] = {{"a", value->a}, {"b", value->b}};
    target[phase] = value->target_sparsity;
  };
  add("prefill", parameters.prefill);
  add("decode", parameters.decode);
  Json result = Json::object();
  if (parameters.initial_disabled_steps > 0) result["initial_disabled_steps"] = parameters.initial_disabled_steps;
  result["threshold_scale_factor"] = std::move(factors);
  result["target_sparsity"] = std::move(target);
  return result;
}

Json to_json(const SparseSoftmaxConfig& parameters) {
  Json result = Json::object();
  for (const auto& [key, field, member] : kSparseSoftmaxKeys) result[key] = parameters.*member;
  return result;
}

}  // namespace

std::string_view algorithm_name(const GroupParameters& parameters) {
  return std::holds_alternative<SkipSoftmaxParameters>(parameters) ? "skip_softmax" : "sparse_softmax";
}

std::vector<ConfigGroup> read_config_groups(const Json& sparsity, const std::string& origin) {
  const std::string path = str("$.", kSparsityKey);
  JsonObject top(sparsity, origin, path);
  top.ignore({"producer"});
  std::vector<ConfigGroup> groups;
  if (const Json* by_name = top.find("config_groups")) {
    const JsonObject names(*by_name, origin, top.path_of("config_groups"));
    for (const auto& [name, value] : by_name->items()) {
      const std::string group_path = names.path_of(name);
      JsonObject group(value, origin, group_path);
      groups.push_back(GroupReader(group, group_path, &top).read(/*alone=*/false));
      group.expect_no_other_keys();
    }
  } else {
    groups.push_back(GroupReader(top, path, nullptr).read(/*alone=*/true));
  }
  add_implied_sparse_softmax(top, groups);
  top.expect_no_other_keys();
  return groups;
}

Json to_json(const std::vector<ConfigGroup>& groups) {
  Json result = Json::object();
  for (const ConfigGroup& group : groups) {
    Json entry = {{"algorithm", algorithm_name(group.parameters)}};
    if (group.targets) entry["targets"] = *group.targets;
    entry["ignore"] = group.ignore;
    entry.update(std::visit([](const auto& parameters) { return to_json(parameters); }, group.parameters));
    result["group_" + std::to_string(result.size())] = std::move(entry);
  }
  return result;
}

}  // namespace modelopt::checkpoint
