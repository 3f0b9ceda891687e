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

// The enabled skip-softmax rules of a configuration.
template <typename Config>
auto skip_rules(Config& config) {
  std::vector<decltype(config::skip_softmax_parameters(*config.default_rule.method))> rules;
  const auto add = [&](auto& rule) {
    if (!rule.enable || !rule.method) return;
    if (auto* parameters = config::skip_softmax_parameters(*rule.method)) rules.push_back(parameters);
  };
  for (auto& entry : config.rules) add(entry.rule);
  add(config.default_rule);
  return rules;
}

// br and bc, which all rules have in common.
const SkipSoftmaxConfig& check_rules(const SparseAttentionConfig& config) {
  const std::string subject = config.name.empty() ? "the configuration" : str("configuration ", config.name);
  MODELOPT_CHECK(config.calibration.has_value(), ConfigError, subject,
                 " has no \"calibration\", expected one beside the patterns, or the preset SKIP_SOFTMAX_CALIB");
  const auto rules = skip_rules(config);
  MODELOPT_CHECK(!rules.empty(), ConfigError, subject,
                 " has no enabled skip-softmax rule to calibrate, expected flash_skip_softmax or skip_softmax");
  for (const SkipSoftmaxConfig* rule : rules)
    MODELOPT_CHECK(rule->br == rules.front()->br && rule->bc == rules.front()->bc, ConfigError,
                   "skip-softmax rules with blocks of ", rules.front()->br, " x ", rules.front()->bc, " and ", rule->br,
                   " x ", rule->bc, ", expected the same in all rules that are calibrated together");
  return *rules.front();
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
std::vector<config::PhaseTargets> targets_of(const SparseAttentionConfig& config) {
  const config::PhaseTargets& common = config.calibration->target_sparse_ratio;
  const auto first = [](const std::optional<double>& own, const std::optional<double>& other) {
    return own ? own : other ? other : 0.0;
  };
  std::vector<config::PhaseTargets> targets;
  for (const SkipSoftmaxConfig* rule : skip_rules(config))
    targets.push_back({.prefill = first(rule->target_sparsity.prefill, common.prefill),
                       .decode = first(rule->target_sparsity.decode, common.decode)});
  return targets;
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

// Puts the counting method into the slots of all modules to which `config` gives a skip-softmax method; returns their
// names.
std::vector<std::string> fill_slots(CausalLM& model, SparseAttentionConfig config, const std::string& kernel,
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
  const SparsifyReport report = sparsify(model, config, {.kernel = kernel, .registry = &registry});
  std::vector<std::string> names;
  for (const ModuleReport& module : report.modules)
    if (std::find(skipping.begin(), skipping.end(), module.method) != skipping.end()) names.push_back(module.name);
  return names;
}

// Everything that the counts of a prompt depend on.
ordered_json cache_key(const PlannedSample& sample, const std::string& ids_hash, const CalibrationConfig& calibration,
                       const SkipSoftmaxConfig& blocks, const std::vector<double>& trials,
                       const std::vector<std::string>& modules, const CausalLM& model,
                       const CalibrateOptions& options) {
  std::string names;
  for (const std::string& name : modules) names += name + "\n";
  return {{"version", version()},
          {"model", options.model_hash},
          {"dtype", c10::toString(model.dtype())},
          {"device", model.device().is_cuda() ? "cuda" : "cpu"},
          {"kernel", options.kernel},
          {"modules", sha256_hex(names)},
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

config::PhaseCalibration fit_phase(const CountsByLength& counts, const std::vector<double>& trials,
                                   const CalibrationConfig& calibration, const CalibrateOptions& options) {
  config::PhaseCalibration phase;
  phase.table = make_table(counts, trials);
  const std::int64_t length = options.fit_length == 0 ? phase.table->lengths.back() : options.fit_length;
  phase.exponential = fit_exponential(*phase.table, {.length = length, .logspace = calibration.fit_logspace});
  phase.form = options.form;
  MODELOPT_CHECK(phase.form == config::CalibrationForm::kTable || phase.exponential, ConfigError,
                 "the exponential form has too few points within 10 to 90 % at ", length,
                 " tokens, expected the form table, or other threshold_trials");
  return phase;
}

// What a refused target could have been.
std::string reach(const config::PhaseCalibration& phase, double target, const CalibrationConfig& calibration) {
  const double largest = *phase.largest_sparsity(phase.table->lengths.back());
  if (target < largest) return "smaller threshold_trials reach smaller targets";
  std::ostringstream text;
  text << std::setprecision(3) << "the largest that can be reached is " << largest;
  for (const std::int64_t length : phase.table->lengths)
    text << (length == phase.table->lengths.front() ? " (" : ", ") << *phase.largest_sparsity(length) << " at "
         << length;
  text << (calibration.cache_dir.empty() ? "); with a cache_dir the counts are kept for another target" : ")");
  return text.str();
}

// Refuses a target that no threshold reaches, and notes the rest.
void check_target(const char* phase_name, const config::PhaseCalibration& phase, double target, bool extrapolate,
                  const CalibrationConfig& calibration, std::vector<std::string>& remarks) {
  if (target == 0.0) return;
  const std::int64_t longest = phase.table->lengths.back();
  const auto problem = phase.out_of_range(target, longest);
  MODELOPT_CHECK(!problem || extrapolate, ConfigError, phase_name, ": ", *problem, "; ",
                 reach(phase, target, calibration));
  for (const std::string& remark : calibration_remarks(phase, target)) remarks.push_back(str(phase_name, ": ", remark));
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
  const std::vector<config::PhaseTargets> targets = targets_of(config);
  const auto wanted = [&](auto phase) {
    return std::any_of(targets.begin(), targets.end(), [&](const auto& rule) { return rule.*phase > 0.0; });
  };
  using Targets = config::PhaseTargets;
  MODELOPT_CHECK(wanted(&Targets::prefill) || wanted(&Targets::decode), ConfigError,
                 "no phase has a target above 0, expected target_sparse_ratio of the calibration or target_sparsity of "
                 "a rule");
  const auto plan = plan_samples(calibration, generator, options.seed, context - calibration.num_decode_tokens);
  const auto [shortest, longest] = std::pair(plan.front().length, plan.back().length);
  MODELOPT_CHECK(options.fit_length == 0 || (options.fit_length >= shortest && options.fit_length <= longest),
                 ConfigError, "the exponential cannot be fitted for ", options.fit_length, " tokens, expected ",
                 shortest, " to ", longest, ", the lengths of the calibration");
  const CountCache cache{calibration.cache_dir};

  const at::NoGradGuard no_grad;
  const DenseScope dense_scope(model);
  const auto recorder = std::make_shared<CountRecorder>(trials_of(calibration));
  const std::vector<std::string> modules = fill_slots(model, config, options.kernel, recorder);
  Measurement measurement(model, calibration, *recorder);

  CalibrationResult result{.config = config, .modules = std::ssize(modules)};
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
    std::optional<PromptCounts> counts = cache.find(key, modules.size(), recorder->thresholds().size());
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

  config::ThresholdCalibration& fitted = result.calibration;
  fitted.br = blocks.br;
  fitted.bc = blocks.bc;
  fitted.provenance =
      config::CalibrationProvenance{.data_hash = data.hex_digest(), .seed = options.seed, .samples = std::ssize(plan)};
  if (wanted(&Targets::prefill)) fitted.prefill = fit_phase(prefill, recorder->thresholds(), calibration, options);
  if (wanted(&Targets::decode)) fitted.decode = fit_phase(decode, recorder->thresholds(), calibration, options);
  const auto rules = skip_rules(result.config);
  for (std::size_t i = 0; i < rules.size(); ++i) {
    if (fitted.prefill)
      check_target("prefill", *fitted.prefill, *targets[i].prefill, options.extrapolate, calibration, result.remarks);
    if (fitted.decode)
      check_target("decode", *fitted.decode, *targets[i].decode, options.extrapolate, calibration, result.remarks);
    rules[i]->threshold = fitted;
    rules[i]->target_sparsity = targets[i];
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  result.seconds = elapsed.count();
  return result;
}

}  // namespace modelopt::calibration
