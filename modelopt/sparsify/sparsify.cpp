#include <modelopt/sparsify/sparsify.h>

#include <utility>
#include <vector>

#include <modelopt/attention/attention_slot.h>
#include <modelopt/config/method_descriptor.h>
#include <modelopt/config/pattern.h>
#include <modelopt/kernels/attention.h>
#include <modelopt/sparsify/attention_modules.h>

namespace modelopt {
namespace {

using attention::AttentionModuleTraits;
using attention::AttentionSlot;

const methods::MethodRegistry& builtin_methods() {
  static const methods::MethodRegistry registry = [] {
    methods::MethodRegistry result;
    methods::register_builtin_methods(result);
    return result;
  }();
  return registry;
}

// A slot as it will be, worked out before anything is changed.
struct ResolvedSlot {
  AttentionSlot* slot;
  AttentionSlot content;
};

// Runs `work` and puts the module's name before the message of what it throws.
template <typename Work>
void with_name(const std::string& module, Work work) {
  try {
    work();
  } catch (const ConfigError& error) {
    throw ConfigError(str(module, ": ", error.what()));
  } catch (const Unsupported& error) {
    throw Unsupported(str(module, ": ", error.what()));
  } catch (const InvalidArgument& error) {
    throw InvalidArgument(str(module, ": ", error.what()));
  }
}

// A rule that awaits its calibration has thresholds that nobody chose.
void check_calibrated(const config::SparseAttentionConfig& config) {
  if (!config.calibration) return;
  bool any = false;
  const auto check = [&any](const std::string& name, const config::Rule& rule) {
    const auto* skipping = rule.enable && rule.method ? config::skip_softmax_parameters(*rule.method) : nullptr;
    any = any || skipping != nullptr;
    MODELOPT_CHECK(skipping == nullptr || std::holds_alternative<config::ThresholdCalibration>(skipping->threshold),
                   ConfigError, "rule ", name,
                   " asks for thresholds by calibration and has none yet, expected a model that `modelopt calibrate "
                   "--config … --export DIR` has written, or a configuration without \"calibration\"");
  };
  for (const config::PatternRule& entry : config.rules) check(entry.pattern, entry.rule);
  check("default", config.default_rule);
  MODELOPT_CHECK(any, ConfigError,
                 "\"calibration\" is for skip-softmax and no rule has it, expected flash_skip_softmax or skip_softmax, "
                 "or a configuration without \"calibration\"");
}

class Resolver {
 public:
  Resolver(const config::SparseAttentionConfig& config, const SparsifyOptions& options)
      : config_(config),
        options_(options),
        registry_(options.registry != nullptr ? *options.registry : builtin_methods()),
        matched_(config.rules.size(), false) {
    for (const config::PatternRule& entry : config.rules) {
      const auto problem = config::pattern_problem(entry.pattern);
      MODELOPT_CHECK(!problem, ConfigError, "pattern \"", entry.pattern, "\": ", *problem,
                     ", expected a shell-style pattern of module names, or a class name");
    }
    check_calibrated(config);
  }

  ResolvedSlot resolve(const AttentionModule& module) {
    AttentionModuleTraits traits = module.owner->attention_traits();
    traits.name = module.name;
    const config::PatternRule* match = last_match(module.name, traits.class_name);
    const config::Rule& rule = match != nullptr ? match->rule : config_.default_rule;
    ModuleReport report{.name = module.name,
                        .class_name = traits.class_name,
                        .rule = match != nullptr ? match->pattern : "default",
                        .parameters = "{}"};
    ResolvedSlot resolved{&module.owner->attention_slot(),
                          {.method = nullptr, .kernel = options_.kernel, .collect_stats = options_.collect_stats}};
    with_name(module.name, [&] {
      // dense modules need it always, sparse ones in decode
      report.backend = operator_backend({.device = traits.device.type(),
                                         .dtype = traits.dtype,
                                         .head_dim = traits.head_dim,
                                         .device_index = traits.device.index()});
      if (rule.enable) resolved.content.method = activate(rule, traits, report);
    });
    modules_.push_back(std::move(report));
    return resolved;
  }

  SparsifyReport report() {
    SparsifyReport report{.modules = std::move(modules_)};
    for (std::size_t i = 0; i < config_.rules.size(); ++i)
      if (!matched_[i]) report.unmatched_patterns.push_back(config_.rules[i].pattern);
    return report;
  }

 private:
  const config::PatternRule* last_match(const std::string& name, const std::string& class_name) {
    const config::PatternRule* match = nullptr;
    for (std::size_t i = 0; i < config_.rules.size(); ++i) {
      const config::PatternRule& entry = config_.rules[i];
      if (entry.pattern != class_name && !config::matches_pattern(entry.pattern, name)) continue;
      matched_[i] = true;
      match = &entry;
    }
    return match;
  }

  std::shared_ptr<const attention::ActiveMethod> activate(const config::Rule& rule, const AttentionModuleTraits& traits,
                                                          ModuleReport& report) const {
    MODELOPT_CHECK(rule.method.has_value(), ConfigError, "rule ", report.rule,
                   " is enabled without a method, expected ", config::known_method_names());
    const methods::SparseAttentionMethod& method = registry_.find(config::descriptor_of(*rule.method).name);
    methods::BoundMethod bound = method.bind(*rule.method, traits);
    report.method = bound.active->name();
    report.config = rule.method;
    report.parameters = bound.active->parameters_json();
    report.backend = bound.operator_traits ? operator_backend(*bound.operator_traits) : "eager";
    return bound.active;
  }

  std::string operator_backend(kernels::AttentionTraits traits) const {
    traits.collect_stats |= options_.collect_stats;
    const std::string backend = kernels::select_attention_backend(traits, options_.kernel);
    if (traits.skip_softmax) {  // so does decode, in blocks of one row
      traits.decode = true;
      traits.skip_br = 1;
      traits.sparse_nm = false;
      (void)kernels::select_attention_backend(traits, options_.kernel);
    }
    return backend;
  }

  const config::SparseAttentionConfig& config_;
  const SparsifyOptions& options_;
  const methods::MethodRegistry& registry_;
  std::vector<bool> matched_;  // per rule
  std::vector<ModuleReport> modules_;
};

void check_unmatched(const SparsifyReport& report) {
  std::string patterns;
  for (const std::string& pattern : report.unmatched_patterns)
    patterns += str(patterns.empty() ? "" : ", ", '"', pattern, '"');
  const ModuleReport& example = report.modules.front();
  MODELOPT_CHECK(patterns.empty(), ConfigError, "no attention module matches ", patterns,
                 ", expected patterns of names like ", example.name, ", or of the class ", example.class_name);
}

}  // namespace

SparsifyReport sparsify(torch::nn::Module& model, const config::SparseAttentionConfig& config,
                        const SparsifyOptions& options) {
  const std::vector<AttentionModule> modules = attention_modules(model);
  MODELOPT_CHECK(!modules.empty(), InvalidArgument, "the model ", model.name(),
                 " has no attention module, expected modules that own a slot (attention::AttentionSlotOwner)");
  Resolver resolver(config, options);
  std::vector<ResolvedSlot> resolved;
  resolved.reserve(modules.size());
  for (const AttentionModule& module : modules) resolved.push_back(resolver.resolve(module));
  SparsifyReport report = resolver.report();
  if (!options.allow_unmatched) check_unmatched(report);

  for (ResolvedSlot& item : resolved) *item.slot = std::move(item.content);  // nothing here throws
  return report;
}

void sparsify(torch::jit::Module&, const config::SparseAttentionConfig&, const SparsifyOptions&) {
  throw Unsupported(
      "a TorchScript module cannot be sparsified: its attention is compiled code without slots; expected a "
      "torch::nn::Module "
      "(inside a script, call torch.ops.modelopt.attention with the sparsity arguments)");
}

void desparsify(torch::nn::Module& model) {
  for (const AttentionModule& module : attention_modules(model)) module.owner->attention_slot() = AttentionSlot{};
}

}  // namespace modelopt
