#include <modelopt/calibration/calibrate.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <c10/core/ScalarType.h>

#include <algorithm>
#include <chrono>
#include <iomanip>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <type_traits>
#include <utility>

#include <modelopt/calibration/calibrating_method.h>
#include <modelopt/calibration/count_cache.h>
#include <modelopt/calibration/sample_plan.h>
#include <modelopt/calibration/threshold_fit.h>
#include <modelopt/config/method_descriptor.h>
#include <modelopt/error.h>
#include <modelopt/methods/calibrated_threshold.h>
#include <modelopt/models/causal_lm.h>
#include <modelopt/models/sampling.h>
#include <modelopt/sparsify/dense_scope.h>
#include <modelopt/sparsify/sparsify.h>
#include <modelopt/util/sha256.h>
#include <modelopt/util/version.h>

namespace modelopt::calibration {
namespace {

using config::CalibrationConfig;
using config::SkipSoftmaxConfig;
using config::SparseAttentionConfig;
using models::CausalLM;
using nlohmann::ordered_json;

template <typename Parameters>
struct SkipRule {
  std::string name;  // its pattern, or "default", as reports have it
  Parameters* parameters;
};

// The enabled skip-softmax rules of a configuration.
template <typename Config>
auto skip_rules(Config& config) {
  using Parameters = std::remove_pointer_t<decltype(config::skip_softmax_parameters(*config.default_rule.method))>;
  std::vector<SkipRule<Parameters>> rules;
  const auto add = [&](const std::string& name, auto& rule) {
    if (!rule.enable || !rule.method) return;
    if (auto* parameters = config::skip_softmax_parameters(*rule.method)) rules.push_back({name, parameters});
  };
  for (auto& entry : config.rules) add(entry.pattern, entry.rule);
  add("default", config.default_rule);
  return rules;
}

// br and bc, which all rules have in common.
const SkipSoftmaxConfig& check_rules(const SparseAttentionConfig& config) {
  const std::string subject = config.name.empty() ? "the configuration" : str("configuration ", config.name);
  MODELOPT_CHECK(config.calibration.has_value(), ConfigError, subject,
                 " has no \"calibration\", expected one beside the patterns, or the preset SKIP_SOFTMAX_TRITON_CALIB");
  const auto rules = skip_rules(config);
  MODELOPT_CHECK(!rules.empty(), ConfigError, subject,
                 " has no enabled skip-softmax rule to calibrate, expected flash_skip_softmax or skip_softmax");
  const SkipSoftmaxConfig& first = *rules.front().parameters;
  for (const auto& [name, rule] : rules)
    MODELOPT_CHECK(rule->br == first.br && rule->bc == first.bc, ConfigError, "skip-softmax rules with blocks of ",
                   first.br, " x ", first.bc, " and ", rule->br, " x ", rule->bc,
                   ", expected the same in all rules that are calibrated together");
  return first;
}

void check_lengths(const CalibrationConfig& calibration, std::int64_t br, std::int64_t context) {
  MODELOPT_CHECK(calibration.max_seqlen <= context, ConfigError, "calibration.max_seqlen is ", calibration.max_seqlen,
                 ", expected at most ", context, ", the model's context");
  MODELOPT_CHECK(calibration.chunk_size == -1 || calibration.chunk_size % br == 0, ConfigError,
                 "calibration.chunk_size is ", calibration.chunk_size,
                 ", expected -1 (the whole prompt) or a multiple of br, ", br);
  MODELOPT_CHECK(calibration.num_decode_tokens < context, ConfigError, "calibration.num_decode_tokens is ",
                 calibration.num_decode_tokens, ", expected less than the model's context, ", context);
}

// The last trial is the largest threshold that is ever applied: what it skips is the most that can be reached.
std::vector<double> trials_of(const CalibrationConfig& calibration) {
  std::vector<double> trials = calibration.threshold_trials;
  std::erase_if(trials, [](double trial) { return trial >= methods::kLargestThreshold; });
  trials.push_back(methods::kLargestThreshold);
  return trials;
}

// Per skip-softmax rule, both phases: its own targets before those of the calibration; 0 for a phase without any.
// Messages name the rule where there are several.
std::vector<RuleCalibration> start_rules(const SparseAttentionConfig& config) {
  const config::PhaseTargets& common = config.calibration->target_sparse_ratio;
  const auto first = [](const std::optional<double>& own, const std::optional<double>& other) {
    return own ? own : other ? other : 0.0;
  };
  std::vector<RuleCalibration> result;
  for (const auto& [name, rule] : skip_rules(config))
    result.push_back({.rule = name,
                      .targets = {.prefill = first(rule->target_sparsity.prefill, common.prefill),
                                  .decode = first(rule->target_sparsity.decode, common.decode)}});
  for (const RuleCalibration& rule : result)
    MODELOPT_CHECK(*rule.targets.prefill > 0.0 || *rule.targets.decode > 0.0, ConfigError,
                   result.size() > 1 ? str("rule ", rule.rule, ": ") : "",
                   "no phase has a target above 0, expected target_sparse_ratio of the calibration or target_sparsity "
                   "of a rule");
  return result;
}

// Runs prompts through the model, whose slots hold the counting method.
class Measurement {
 public:
  Measurement(CausalLM& model, const CalibrationConfig& calibration, CountRecorder& recorder)
      : model_(model), calibration_(calibration), recorder_(recorder) {}

  PromptCounts run(const std::vector<std::int64_t>& prompt) {
    models::KVCache cache = model_.make_cache(1, std::ssize(prompt) + calibration_.num_decode_tokens);
    at::Tensor logits = prefill(prompt, cache);
    for (std::int64_t step = 0; step < calibration_.num_decode_tokens; ++step)
      logits = forward(models::greedy_tokens(logits), models::Phase::kDecode, std::ssize(prompt), cache);
    return recorder_.take();
  }

 private:
  at::Tensor prefill(const std::vector<std::int64_t>& prompt, models::KVCache& cache) {
    const auto length = std::ssize(prompt);
    const std::int64_t chunk = calibration_.chunk_size == -1 ? length : calibration_.chunk_size;
    at::Tensor logits;
    for (std::int64_t begin = 0; begin < length; begin += chunk) {
      const std::int64_t end = std::min(begin + chunk, length);
      logits = forward({prompt.begin() + begin, prompt.begin() + end}, models::Phase::kPrefill, length, cache);
    }
    return logits;
  }

  at::Tensor forward(const std::vector<std::int64_t>& ids, models::Phase phase, std::int64_t prompt_length,
                     models::KVCache& cache) {
    models::ModelInput input;
    input.input_ids = at::tensor(ids, at::kLong);
    input.lengths = {std::ssize(ids)};
    input.phase = phase;
    input.logits = models::LogitRows::kLast;
    input.cache = &cache;
    input.prompt_lengths = {prompt_length};
    return model_.forward(input).logits;
  }

  CausalLM& model_;
  const CalibrationConfig& calibration_;
  CountRecorder& recorder_;
};

// Refuses rules that could not be applied once they are calibrated, before anything is measured.
void check_applicable(CausalLM& model, SparseAttentionConfig config, const std::string& kernel) {
  config.calibration.reset();
  for (const auto& [name, rule] : skip_rules(config)) {
    rule->threshold = methods::kLargestThreshold;
    rule->target_sparsity = {};
  }
  sparsify(model, config, {.kernel = kernel});
}

struct CountedModules {
  std::vector<ModuleReport> skipping;  // with the counting method
  std::string hash;                    // of what every attention module does while they count
};

// Puts the counting method into the slots of all modules to which `config` gives a skip-softmax method.
CountedModules fill_slots(CausalLM& model, SparseAttentionConfig config, const std::string& kernel,
                          const std::shared_ptr<CountRecorder>& recorder) {
  config.calibration.reset();  // what it asks for is being done
  methods::MethodRegistry registry;
  methods::register_builtin_methods(registry);
  std::vector<std::string> skipping;
  for (const config::MethodDescriptor& descriptor : config::method_descriptors()) {
    if (config::skip_softmax_parameters(descriptor.defaults) == nullptr) continue;
    skipping.emplace_back(descriptor.name);
    registry.add(std::make_unique<CalibratingMethod>(descriptor.name, recorder));
  }
  SparsifyReport report = sparsify(model, config, {.kernel = kernel, .registry = &registry});
  CountedModules counted;
  ordered_json modules = ordered_json::array();
  for (ModuleReport& module : report.modules) {
    const bool counts = std::find(skipping.begin(), skipping.end(), module.method) != skipping.end();
    modules.push_back({module.name, counts ? "counted" : module.method, module.parameters});
    if (counts) counted.skipping.push_back(std::move(module));
  }
  counted.hash = sha256_hex(modules.dump());
  return counted;
}

// Rows of the counts that belong to each rule: of several rules with one pattern, to the last.
std::vector<std::vector<std::size_t>> assign_modules(std::vector<RuleCalibration>& rules,
                                                     const std::vector<ModuleReport>& modules) {
  std::vector<std::vector<std::size_t>> rows(rules.size());
  for (std::size_t m = 0; m < modules.size(); ++m) {
    std::size_t i = rules.size() - 1;
    while (rules[i].rule != modules[m].rule) --i;
    rules[i].modules.push_back(modules[m].name);
    rows[i].push_back(m);
  }
  for (const RuleCalibration& rule : rules)
    MODELOPT_CHECK(
        !rule.modules.empty(), ConfigError, "rule ", rule.rule,
        " has no attention module to calibrate, expected one that no later rule takes, or the rule disabled");
  return rows;
}

// Everything that the counts of a prompt depend on.
ordered_json cache_key(const PlannedSample& sample, const std::string& ids_hash, const CalibrationConfig& calibration,
                       const SkipSoftmaxConfig& blocks, const std::vector<double>& trials,
                       const CountedModules& modules, const CausalLM& model, const CalibrateOptions& options) {
  return {{"version", version()},
          {"model", options.model_hash},
          {"dtype", c10::toString(model.dtype())},
          {"device", model.device().is_cuda() ? "cuda" : "cpu"},
          {"kernel", options.kernel},
          {"modules", modules.hash},
          {"br", blocks.br},
          {"bc", blocks.bc},
          {"threshold_trials", trials},
          {"chunk_size", calibration.chunk_size},
          {"num_decode_tokens", calibration.num_decode_tokens},
          {"task", to_string(sample.request.task)},
          {"length", sample.length},
          {"seed", sample.request.seed},
          {"index", sample.request.index},
          {"token_ids", ids_hash}};
}

std::string ids_bytes(const std::vector<std::int64_t>& ids) {
  std::string text;
  for (const std::int64_t id : ids) text += std::to_string(id) + " ";
  return text + "\n";
}

using CountsByLength = std::map<std::int64_t, BlockCounts>;

void add(CountsByLength& totals, std::int64_t length, const BlockCounts& counts) {
  const auto [entry, is_new] = totals.try_emplace(length, counts);
  if (!is_new) entry->second += counts;
}

// Of the modules in these rows. `subject` begins messages.
config::PhaseCalibration fit_phase(const CountsByLength& counts, const std::vector<std::size_t>& rows,
                                   const std::vector<double>& trials, const CalibrationConfig& calibration,
                                   const CalibrateOptions& options, const std::string& subject) {
  CountsByLength own;
  for (const auto& [length, blocks] : counts) own.emplace(length, blocks.of_modules(rows));
  config::PhaseCalibration phase;
  phase.table = make_table(own, trials);
  const std::int64_t longest = phase.table->lengths.back();
  const std::int64_t length = options.fit_length == 0 ? longest : std::min(options.fit_length, longest);
  phase.exponential = fit_exponential(*phase.table, {.length = length, .logspace = calibration.fit_logspace});
  phase.form = options.form;
  MODELOPT_CHECK(phase.form == config::CalibrationForm::kTable || phase.exponential, ConfigError, subject,
                 ": the exponential form has too few points within 10 to 90 % at ", length,
                 " tokens, expected the form table, or other threshold_trials");
  return phase;
}

// What a refused target could have been.
std::string reach(const config::PhaseCalibration& phase, double target, const CalibrationConfig& calibration) {
  const std::int64_t longest = phase.table->lengths.back();
  const double largest = *phase.largest_sparsity(longest);
  const double smallest = phase.form == config::CalibrationForm::kTable ? phase.table->shares_at(longest).front()
                                                                        : phase.exponential->fit->min_sparsity;
  if (target < smallest) return "smaller threshold_trials reach smaller targets";
  std::ostringstream text;
  text << std::setprecision(3) << "the largest that can be reached is " << largest;
  for (const std::int64_t length : phase.table->lengths)
    text << (length == phase.table->lengths.front() ? " (" : ", ") << *phase.largest_sparsity(length) << " at "
         << length;
  text << (calibration.cache_dir.empty() ? "); with a cache_dir the counts are kept for another target" : ")");
  return text.str();
}

// Refuses a target that no threshold reaches. `subject` begins the message.
void check_target(const config::PhaseCalibration& phase, double target, bool extrapolate,
                  const CalibrationConfig& calibration, const std::string& subject) {
  const std::int64_t longest = phase.table->lengths.back();
  const auto problem = phase.out_of_range(target, longest);
  MODELOPT_CHECK(!problem || extrapolate, ConfigError, subject, ": ", *problem, "; ",
                 reach(phase, target, calibration));
}

}  // namespace

CalibrationResult calibrate(CausalLM& model, const RulerGenerator& generator, const SparseAttentionConfig& config,
                            const CalibrateOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const SkipSoftmaxConfig& blocks = check_rules(config);
  const CalibrationConfig& calibration = *config.calibration;
  const std::int64_t context = model.config().max_position_embeddings;
  check_lengths(calibration, blocks.br, context);
  MODELOPT_CHECK(calibration.cache_dir.empty() || !options.model_hash.empty(), InvalidArgument,
                 "a cache of counts needs the model's hash, expected CalibrateOptions::model_hash");
  CalibrationResult result{.rules = start_rules(config), .config = config};
  const auto plan = plan_samples(calibration, generator, options.seed, context - calibration.num_decode_tokens);
  const std::int64_t shortest = plan.front().length;
  MODELOPT_CHECK(
      options.fit_length == 0 || (options.fit_length >= shortest && options.fit_length <= calibration.max_seqlen),
      ConfigError, "the exponential cannot be fitted for ", options.fit_length, " tokens, expected ", shortest, " to ",
      calibration.max_seqlen, ", the lengths of the calibration");
  const CountCache cache{calibration.cache_dir};

  const at::NoGradGuard no_grad;
  const DenseScope dense_scope(model);
  check_applicable(model, config, options.kernel);
  const auto recorder = std::make_shared<CountRecorder>(trials_of(calibration));
  const CountedModules modules = fill_slots(model, config, options.kernel, recorder);
  const auto rows = assign_modules(result.rules, modules.skipping);
  Measurement measurement(model, calibration, *recorder);

  std::int64_t total = 0, done = 0;
  for (const PlannedSample& sample : plan) total += sample.length;
  CountsByLength prefill, decode;
  Sha256 data;
  for (const PlannedSample& planned : plan) {
    const RulerSample sample = generator.make(planned.request);
    const std::string ids = ids_bytes(sample.ids);
    data.update(ids);
    const ordered_json key =
        cache_key(planned, sha256_hex(ids), calibration, blocks, recorder->thresholds(), modules, model, options);
    std::optional<PromptCounts> counts = cache.find(key, modules.skipping.size(), recorder->thresholds().size());
    result.samples.push_back({planned.request.task, planned.length, std::ssize(sample.ids), counts.has_value()});
    if (!counts) {
      counts = measurement.run(sample.ids);
      cache.store(key, *counts);
    }
    add(prefill, planned.length, counts->prefill);
    add(decode, planned.length, counts->decode);
    done += planned.length;
    if (options.progress) options.progress(done, total);
  }

  const config::CalibrationProvenance provenance = {
      .data_hash = data.hex_digest(), .seed = options.seed, .samples = std::ssize(plan)};
  const auto rules = skip_rules(result.config);
  for (std::size_t i = 0; i < rules.size(); ++i) {
    RuleCalibration& rule = result.rules[i];
    const auto fit = [&](const char* name, const CountsByLength& counts,
                         double target) -> std::optional<config::PhaseCalibration> {
      if (target == 0.0) return std::nullopt;
      const std::string subject = str(rules.size() > 1 ? str("rule ", rule.rule, ", ") : "", name);
      auto phase = fit_phase(counts, rows[i], recorder->thresholds(), calibration, options, subject);
      check_target(phase, target, options.extrapolate, calibration, subject);
      for (const std::string& remark : calibration_remarks(phase, target))
        rule.remarks.push_back(str(name, ": ", remark));
      return phase;
    };
    rule.calibration = {.br = blocks.br, .bc = blocks.bc, .provenance = provenance};
    rule.calibration.prefill = fit("prefill", prefill, *rule.targets.prefill);
    rule.calibration.decode = fit("decode", decode, *rule.targets.decode);
    rules[i].parameters->threshold = rule.calibration;
    rules[i].parameters->target_sparsity = rule.targets;
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  result.seconds = elapsed.count();
  return result;
}

}  // namespace modelopt::calibration
