#include <modelopt/checkpoint/export/module_groups.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include <modelopt/config/pattern.h>
#include <modelopt/error.h>
#include <modelopt/sparsify/attention_modules.h>

namespace modelopt::checkpoint {
namespace {

using config::MethodConfig;
using config::PhaseCalibration;
using config::PhaseTargets;
using config::SkipSoftmaxConfig;
using config::SparseSoftmaxConfig;
using config::ThresholdCalibration;

// --- writing ------------------------------------------------------------------------------------------------------

// Where a better form is in use, its exponential is what others can read.
std::optional<SkipSoftmaxPhase> exported_phase(const std::optional<PhaseCalibration>& calibration,
                                               const std::optional<double>& target) {
  if (!calibration || !calibration->exponential || target.value_or(0.0) == 0.0) return std::nullopt;
  return SkipSoftmaxPhase{
      .a = calibration->exponential->a, .b = calibration->exponential->b, .target_sparsity = *target};
}

std::optional<SkipSoftmaxParameters> exported_skipping(const SkipSoftmaxConfig& method) {
  const auto* calibration = std::get_if<ThresholdCalibration>(&method.threshold);
  if (calibration == nullptr) return std::nullopt;
  SkipSoftmaxParameters result{.prefill = exported_phase(calibration->prefill, method.target_sparsity.prefill),
                               .decode = exported_phase(calibration->decode, method.target_sparsity.decode),
                               .initial_disabled_steps = method.initial_disabled_steps};
  if (!result.prefill && !result.decode) return std::nullopt;
  return result;
}

SparseSoftmaxConfig exported_sparse_softmax(const SkipSoftmaxConfig& method) {
  return {.sparsity_n = method.sparsity_n,
          .sparsity_m = method.sparsity_m,
          .num_sink_tokens = method.num_sink_tokens,
          .dense_window_size = method.dense_window_size};
}

void ignore_other_modules(const SparsifyReport& report, const std::set<std::string>& members, ConfigGroup& group) {
  for (const auto& module : report.modules)
    if (!members.contains(module.name)) group.ignore.push_back(module.name);
}

// --- reading ------------------------------------------------------------------------------------------------------

std::string class_of(const AttentionModule& module) { return module.owner->attention_traits().class_name; }

bool means(const std::string& entry, const std::string& name) {
  return entry == name || (!config::pattern_problem(entry) && config::matches_pattern(entry, name));
}

bool contains(const ConfigGroup& group, const AttentionModule& module) {
  if (group.targets && !group.targets->contains(class_of(module))) return false;
  return std::none_of(group.ignore.begin(), group.ignore.end(),
                      [&](const std::string& entry) { return means(entry, module.name); });
}

void check_names(const ConfigGroup& group, const std::vector<AttentionModule>& modules) {
  for (const std::string& target : group.targets.value_or(std::set<std::string>())) {
    const bool exists =
        std::any_of(modules.begin(), modules.end(), [&](const auto& module) { return class_of(module) == target; });
    MODELOPT_CHECK(exists, DataError, group.where, ".targets: the model has no attention module of class ", target);
  }
  for (const std::string& entry : group.ignore) {
    const bool exists =
        std::any_of(modules.begin(), modules.end(), [&](const auto& module) { return means(entry, module.name); });
    MODELOPT_CHECK(exists, DataError, group.where, ".ignore: ", entry, " is no attention module of this model");
  }
}

// The module's groups, at most one of each algorithm.
struct Membership {
  const SkipSoftmaxParameters* skipping = nullptr;
  const SparseSoftmaxConfig* sparse_softmax = nullptr;
};

Membership membership(const std::vector<ConfigGroup>& groups, const AttentionModule& module) {
  Membership result;
  for (const ConfigGroup& group : groups) {
    if (!contains(group, module)) continue;
    const auto* skipping = std::get_if<SkipSoftmaxParameters>(&group.parameters);
    const bool repeated = skipping != nullptr ? result.skipping != nullptr : result.sparse_softmax != nullptr;
    MODELOPT_CHECK(!repeated, DataError, group.where, ": ", module.name, " belongs to an earlier ",
                   algorithm_name(group.parameters), " group already");
    if (skipping != nullptr)
      result.skipping = skipping;
    else
      result.sparse_softmax = &std::get<SparseSoftmaxConfig>(group.parameters);
  }
  return result;
}

std::optional<PhaseCalibration> calibration_of(const std::optional<SkipSoftmaxPhase>& phase) {
  if (!phase) return std::nullopt;
  return PhaseCalibration{.form = config::CalibrationForm::kExponential,
                          .exponential = config::ExponentialThreshold{.a = phase->a, .b = phase->b, .fit = {}},
                          .table = std::nullopt};
}

std::optional<MethodConfig> method_of(const Membership& groups) {
  if (groups.skipping == nullptr)
    return groups.sparse_softmax == nullptr ? std::nullopt : std::optional<MethodConfig>(*groups.sparse_softmax);
  const auto target = [](const auto& phase) { return phase ? std::optional(phase->target_sparsity) : std::nullopt; };
  const SkipSoftmaxParameters& skipping = *groups.skipping;
  SkipSoftmaxConfig method;
  method.threshold =
      ThresholdCalibration{.prefill = calibration_of(skipping.prefill), .decode = calibration_of(skipping.decode)};
  method.target_sparsity = {.prefill = target(skipping.prefill), .decode = target(skipping.decode)};
  method.initial_disabled_steps = skipping.initial_disabled_steps;
  if (groups.sparse_softmax == nullptr) return method;
  method.sparsity_n = groups.sparse_softmax->sparsity_n;
  method.sparsity_m = groups.sparse_softmax->sparsity_m;
  method.num_sink_tokens = groups.sparse_softmax->num_sink_tokens;
  method.dense_window_size = groups.sparse_softmax->dense_window_size;
  method.export_sparse_softmax = true;
  return method;
}

// By class, the method that most of its modules have; a class without sparse modules has none.
std::map<std::string, MethodConfig> usual_methods(const std::vector<AttentionModule>& modules,
                                                  const std::vector<std::optional<MethodConfig>>& methods) {
  std::map<std::string, MethodConfig> usual;
  std::map<std::string, std::size_t> most;
  for (std::size_t i = 0; i < modules.size(); ++i) {
    if (!methods[i]) continue;
    const std::string class_name = class_of(modules[i]);
    std::size_t same = 0;
    for (std::size_t j = 0; j < modules.size(); ++j)
      same += class_of(modules[j]) == class_name && methods[j] == methods[i];
    if (same <= most[class_name]) continue;
    most[class_name] = same;
    usual.insert_or_assign(class_name, *methods[i]);
  }
  return usual;
}

}  // namespace

std::vector<GroupParameters> exported_parameters(const MethodConfig& method) {
  std::vector<GroupParameters> result;
  if (const SkipSoftmaxConfig* skipping = config::skip_softmax_parameters(method)) {
    if (const auto exported = exported_skipping(*skipping)) result.emplace_back(*exported);
    if (skipping->sparsity_n > 0 && skipping->export_sparse_softmax)
      result.emplace_back(exported_sparse_softmax(*skipping));
  } else if (SparseSoftmaxConfig parameters = std::get<SparseSoftmaxConfig>(method); parameters.sparsity_n > 0) {
    parameters.backend = SparseSoftmaxConfig{}.backend;
    result.emplace_back(parameters);
  }
  return result;
}

std::vector<ConfigGroup> group_modules(const SparsifyReport& report) {
  std::vector<ConfigGroup> groups;
  std::vector<std::set<std::string>> members;
  for (const auto& module : report.modules) {
    if (!module.is_sparse()) continue;
    for (GroupParameters& parameters : exported_parameters(*module.config)) {
      const auto same = std::find_if(groups.begin(), groups.end(),
                                     [&](const ConfigGroup& group) { return group.parameters == parameters; });
      const auto index = static_cast<std::size_t>(same - groups.begin());
      if (same == groups.end()) {
        groups.push_back(
            {.where = "", .parameters = std::move(parameters), .targets = std::set<std::string>(), .ignore = {}});
        members.emplace_back();
      }
      groups[index].targets->insert(module.class_name);
      members[index].insert(module.name);
    }
  }
  for (std::size_t i = 0; i < groups.size(); ++i) ignore_other_modules(report, members[i], groups[i]);
  return groups;
}

config::SparseAttentionConfig config_of(const std::vector<ConfigGroup>& groups, torch::nn::Module& model) {
  const std::vector<AttentionModule> modules = attention_modules(model);
  for (const ConfigGroup& group : groups) check_names(group, modules);
  std::vector<std::optional<MethodConfig>> methods;
  for (const AttentionModule& module : modules) methods.push_back(method_of(membership(groups, module)));
  config::SparseAttentionConfig result;
  const auto usual = usual_methods(modules, methods);
  for (const auto& [class_name, method] : usual)
    result.rules.push_back({.pattern = class_name, .rule = {.enable = true, .method = method}});
  for (std::size_t i = 0; i < modules.size(); ++i) {
    const auto of_class = usual.find(class_of(modules[i]));
    if (of_class != usual.end() && methods[i] != of_class->second)
      result.rules.push_back(
          {.pattern = modules[i].name, .rule = {.enable = methods[i].has_value(), .method = methods[i]}});
  }
  return result;
}

}  // namespace modelopt::checkpoint
