// modelopt calibrate --model DIR --config SKIP_SOFTMAX_TRITON_CALIB --export DIR2
#include <algorithm>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include <modelopt/calibration/calibrate.h>
#include <modelopt/calibration/model_hash.h>
#include <modelopt/calibration/sample_plan.h>
#include <modelopt/checkpoint/export/upstream_differences.h>
#include <modelopt/config/parse.h>
#include <modelopt/methods/calibrated_threshold.h>

#include "commands.h"
#include "exit_code.h"
#include "export_target.h"
#include "model_session.h"
#include "output.h"
#include "progress_bar.h"
#include "ruler_options.h"
#include "text_table.h"

namespace modelopt::cli {
namespace {

using Json = nlohmann::ordered_json;
using config::CalibrationForm;
using config::Extrapolation;
using config::PhaseCalibration;

struct Options {
  CommonOptions common;
  ConfigOptions config;
  std::string model;
  ExportTarget export_target;
  // fields of the calibration block; empty: as the configuration says
  std::string target_sparse_ratio, samples, max_seqlen, chunk_size, data_dir, cache_dir;
  std::string haystack;
  std::string form = "table";
  std::int64_t fit_length = 0;
  bool extrapolate = false;
  std::int64_t ruler_samples = 1;
  std::string json;
};

// The flags are fields of the configuration and go through the same validation.
ConfigOptions with_calibration_fields(const Options& options) {
  ConfigOptions config = options.config;
  const auto add = [&](const char* field, const std::string& value) {
    if (!value.empty()) config.assignments.push_back(str("calibration.", field, "=", value));
  };
  add("target_sparse_ratio", options.target_sparse_ratio);
  add("samples", options.samples);
  add("max_seqlen", options.max_seqlen);
  add("chunk_size", options.chunk_size);
  // as JSON strings, so that a path is never taken for a number
  add("data_dir", options.data_dir.empty() ? "" : Json(options.data_dir).dump());
  add("cache_dir", options.cache_dir.empty() ? "" : Json(options.cache_dir).dump());
  return config;
}

// A rule's own targets go before those of the calibration: a flag beside them would do nothing.
void check_targets(const config::SparseAttentionConfig& config, const Options& options) {
  if (options.target_sparse_ratio.empty()) return;
  const auto check = [&](const std::string& name, const config::Rule& rule) {
    if (!rule.enable || !rule.method) return;
    const config::SkipSoftmaxConfig* skipping = config::skip_softmax_parameters(*rule.method);
    MODELOPT_CHECK(skipping == nullptr || (!skipping->target_sparsity.prefill && !skipping->target_sparsity.decode),
                   UsageError, "--target-sparsity ", options.target_sparse_ratio, ": rule ", name,
                   " has a target_sparsity of its own, which goes before it, expected one of the two");
  };
  for (const auto& entry : config.rules) check(entry.pattern, entry.rule);
  check("default", config.default_rule);
}

calibration::CalibrationResult calibrate(const ModelSession& session, const calibration::RulerGenerator& generator,
                                         const config::SparseAttentionConfig& config, const Options& options) {
  ProgressBar bar("calibrating", progress_mode(options.common));
  calibration::CalibrateOptions calibrate_options;
  calibrate_options.seed = options.common.seed;
  calibrate_options.kernel = options.common.kernel;
  calibrate_options.form = options.form == "table" ? CalibrationForm::kTable : CalibrationForm::kExponential;
  calibrate_options.fit_length = options.fit_length;
  calibrate_options.extrapolate = options.extrapolate;
  if (config.calibration && !config.calibration->cache_dir.empty())
    calibrate_options.model_hash = calibration::model_hash(session.directory);
  calibrate_options.progress = [&](std::int64_t done, std::int64_t total) { bar.update(done, total); };
  return calibration::calibrate(*session.model, generator, config, calibrate_options);
}

// What a phase's thresholds come to at one length.
struct Prediction {
  std::int64_t length = 0;
  double threshold = 0.0;                                            // of the form that is applied
  double skipped = 0.0;                                              // what it skips, by the table
  double largest = 0.0;                                              // what any threshold can skip
  std::optional<double> exponential_threshold, exponential_skipped;  // as other readers have it
};

std::vector<Prediction> predict(const PhaseCalibration& phase, double target) {
  std::vector<Prediction> predictions;
  for (const std::int64_t length : phase.table->lengths) {
    Prediction prediction{
        .length = length,
        .threshold = std::min(phase.threshold(target, length, Extrapolation::kAllow), methods::kLargestThreshold)};
    prediction.skipped = phase.table->share(prediction.threshold, length);
    prediction.largest = *phase.largest_sparsity(length);
    if (phase.exponential) {
      prediction.exponential_threshold = phase.exponential->threshold(target, length);
      prediction.exponential_skipped = checkpoint::share_for_other_readers(phase, target, length);
    }
    predictions.push_back(prediction);
  }
  return predictions;
}

std::string percent(double share) { return fixed(100.0 * share, 1); }

std::string phase_text(const std::string& name, const PhaseCalibration& phase, double target) {
  TextTable table({{"tokens", Align::kRight},
                   {str("threshold (", to_string(phase.form), ")"), Align::kRight},
                   {"skips %", Align::kRight},
                   {"largest %", Align::kRight},
                   {"exponential", Align::kRight},
                   {"skips %", Align::kRight}});
  for (const Prediction& row : predict(phase, target))
    table.add_row({std::to_string(row.length), significant(row.threshold, 4), percent(row.skipped),
                   percent(row.largest), row.exponential_threshold ? significant(*row.exponential_threshold, 4) : "-",
                   row.exponential_skipped ? percent(*row.exponential_skipped) : "-"});
  std::string text = str(name, ", target ", percent(target), " %\n", table.render());
  if (phase.exponential) {
    const auto& fit = *phase.exponential->fit;
    text += str("exponential for ", fit.length, " tokens: a = ", significant(phase.exponential->a, 4),
                ", b = ", significant(phase.exponential->b, 4), ", R² = ", fixed(fit.r_squared, 4), ", ", fit.points,
                " points of ", percent(fit.min_sparsity), " to ", percent(fit.max_sparsity), " %\n");
  }
  const auto& spread = phase.table->layer_spread;
  return text + str("spread over layers: up to ", percent(*std::max_element(spread.begin(), spread.end())),
                    " points (standard deviation)\n");
}

Json phase_data(const PhaseCalibration& phase, double target) {
  Json rows = Json::array();
  for (const Prediction& row : predict(phase, target))
    rows.push_back(
        {{"seq_len", row.length},
         {"target", target},
         {"threshold", row.threshold},
         {"skipped_fraction", row.skipped},
         {"largest", row.largest},
         {"exponential_threshold", row.exponential_threshold ? Json(*row.exponential_threshold) : Json()},
         {"exponential_skipped_fraction", row.exponential_skipped ? Json(*row.exponential_skipped) : Json()}});
  return rows;
}

// Of each rule, which stands above its tables where there are several.
std::string to_text(const eval::NamedConfig& config, const calibration::CalibrationResult& result) {
  const auto cached =
      std::count_if(result.samples.begin(), result.samples.end(), [](const auto& sample) { return sample.cached; });
  std::size_t modules = 0;
  for (const auto& rule : result.rules) modules += rule.modules.size();
  const config::ThresholdCalibration& first = result.rules.front().calibration;
  std::string text =
      str(config.name, ": ", result.samples.size(), " prompts of ", result.samples.front().length, " to ",
          result.samples.back().length, " tokens (", cached, " from the cache), ", modules,
          " attention modules, blocks of ", first.br, " x ", first.bc, ", ", fixed(result.seconds, 1), " s\n");
  for (const auto& [name, rule_modules, targets, calibration, remarks] : result.rules) {
    if (result.rules.size() > 1)
      text += str("\nRule ", name, " on ", rule_modules.size(), rule_modules.size() == 1 ? " module\n" : " modules\n");
    if (calibration.prefill) text += "\n" + phase_text("prefill", *calibration.prefill, *targets.prefill);
    if (calibration.decode) text += "\n" + phase_text("decode", *calibration.decode, *targets.decode);
    for (const std::string& remark : remarks)
      text += (&remark == remarks.data() ? "\n" : "") + str("Note: ", remark, "\n");
  }
  return text;
}

Json rules_data(const calibration::CalibrationResult& result) {
  Json rules = Json::array();
  for (const auto& [name, modules, targets, calibration, remarks] : result.rules)
    rules.push_back({{"rule", name},
                     {"modules", modules},
                     {"calibration", config::to_json(calibration)},
                     {"prefill", calibration.prefill ? phase_data(*calibration.prefill, *targets.prefill) : Json()},
                     {"decode", calibration.decode ? phase_data(*calibration.decode, *targets.decode) : Json()},
                     {"remarks", remarks}});
  return rules;
}

Json samples_data(const calibration::CalibrationResult& result) {
  Json samples = Json::array();
  for (const auto& sample : result.samples)
    samples.push_back({{"task", to_string(sample.task)},
                       {"seq_len", sample.length},
                       {"tokens", sample.tokens},
                       {"cached", sample.cached}});
  return samples;
}

// Dense and calibrated on prompts that the calibration has not seen, at its own lengths.
std::vector<eval::RulerResult> check_on_ruler(const ModelSession& session, const calibration::RulerGenerator& generator,
                                              const eval::NamedConfig& calibrated,
                                              const std::vector<std::int64_t>& stop_token_ids, const Options& options) {
  constexpr std::int64_t kAnswerRoom = 256;
  const config::CalibrationConfig& calibration = *calibrated.config.calibration;
  eval::RulerOptions ruler;
  ruler.lengths = calibration::length_bins(calibration.max_seqlen, calibration.num_length_bins);
  const std::int64_t room = session.model->config().max_position_embeddings - kAnswerRoom;
  for (std::int64_t& length : ruler.lengths) length = std::min(length, room);
  ruler.samples = options.ruler_samples;
  ruler.stop_token_ids = stop_token_ids;
  ruler.seed = options.common.seed + 1;
  return run_ruler(session, generator, {calibrated}, ruler, options.common);
}

void run(const Options& options) {
  check_export(options.export_target, options.model);
  const Output output(options.json);
  const auto named = named_configs(with_calibration_fields(options), options.common);
  MODELOPT_CHECK(!named.empty(), UsageError,
                 "calibrate needs --config NAME|FILE, with a calibration block, e.g. SKIP_SOFTMAX_TRITON_CALIB");
  const auto& wanted = named.front();
  const std::string data_dir = wanted.config.calibration ? wanted.config.calibration->data_dir : std::string();
  check_haystack(options.haystack, data_dir, "calibration.data_dir");
  check_targets(wanted.config, options);
  const ModelSession session = load_session(options.model, options.common);
  const auto generator = ruler_generator(session, options.haystack, data_dir);
  const auto stop_token_ids = options.ruler_samples > 0 ? stop_tokens(session) : std::vector<std::int64_t>();
  const calibration::CalibrationResult result = calibrate(session, generator, wanted.config, options);
  output.print(to_text(wanted, result));

  // The export first: the comparison takes longer than the calibration, and an interrupt must not cost the result.
  const eval::NamedConfig calibrated{wanted.name, result.config};
  if (!options.export_target.directory.empty()) {
    write_export(session, calibrated, options.export_target, options.common);
    output.print(str("\nWrote ", options.export_target.directory, "\n"));
  }
  std::vector<eval::RulerResult> ruler;
  if (options.ruler_samples > 0) {
    ruler = check_on_ruler(session, generator, calibrated, stop_token_ids, options);
    output.print("\n" + ruler_table(ruler));
  }
  output.finish({{"model", options.model},
                 {"config", wanted.name},
                 {"configuration", config::to_json(result.config)},
                 {"haystack", haystack_name(options.haystack, data_dir)},
                 {"rules", rules_data(result)},
                 {"samples", samples_data(result)},
                 {"seconds", result.seconds},
                 {"ruler", ruler_data(ruler)},
                 {"export", options.export_target.directory.empty() ? Json() : Json(options.export_target.directory)}});
}

void add_calibration_options(CLI::App& command, Options& options) {
  const std::string group = "Calibration";
  const auto add = [&](const char* names, std::string& value, const char* description, const char* type) {
    command.add_option(names, value, description)->type_name(type)->group(group);
  };
  add("--target-sparsity,--target_sparse_ratio", options.target_sparse_ratio,
      "share of blocks to skip: a number, or {\"prefill\": 0.3, \"decode\": 0.5}", "SHARE");
  add("--samples,--calib_samples", options.samples, "prompts", "INT");
  add("--max-seqlen,--calib_max_seqlen", options.max_seqlen, "tokens of the longest prompts", "INT");
  add("--chunk-size,--calib_chunk_size", options.chunk_size, "prompt tokens per forward, a multiple of br; -1: all",
      "INT");
  add("--data-dir,--calib_data_dir", options.data_dir, "text file, or directory of *.txt, that prompts are made of",
      "PATH");
  add_haystack_option(command, options.haystack)->group(group);
  add("--cache", options.cache_dir, "keep counts here: a calibration that was broken off resumes", "DIR");
  command.add_option("--form", options.form, "how thresholds follow from targets: table (default) or exponential")
      ->check(CLI::IsMember({"table", "exponential"}))
      ->group(group);
  command
      .add_option("--fit-length", options.fit_length,
                  "tokens that the exponential is fitted for (default: the longest prompts)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->group(group);
  command.add_flag("--extrapolate", options.extrapolate, "accept targets beyond what was measured")->group(group);
  command
      .add_option("--ruler-samples", options.ruler_samples,
                  "prompts per task and length to compare dense and calibrated on; 0: none (default: 1)")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 20))
      ->group(group);
}

}  // namespace

Command add_calibrate(CLI::App& program) {
  const auto options = std::make_shared<Options>();
  CLI::App* parser = program.add_subcommand(
      "calibrate", "Fit skip-softmax thresholds to a wanted share of skipped blocks, and export the result");
  add_model_option(*parser, options->model);
  add_export_options(*parser, options->export_target, "the calibrated configuration");
  add_json_option(*parser, options->json);
  add_config_options(*parser, options->config, ConfigUse::kOneRequired);
  add_calibration_options(*parser, *options);
  return finish_command(parser, options, &run);
}

}  // namespace modelopt::cli
