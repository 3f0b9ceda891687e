#include <modelopt/calibration/calibrate.h>

#include <modelopt/calibration/sample_plan.h>
#include <modelopt/checkpoint/load_model.h>
#include <modelopt/methods/calibrated_threshold.h>
#include <modelopt/models/causal_lm.h>
#include <modelopt/models/generate.h>
#include <modelopt/sparsify/sparsify.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <cmath>
#include <functional>
#include <memory>
#include <string>

#include <modelopt/config/parse.h>
#include <modelopt/error.h>

#include "modelopt/checkpoint/test_files.h"

using namespace modelopt;
using namespace modelopt::calibration;
using Catch::Matchers::Message;

using modelopt::test::TemporaryDirectory;

namespace {

// Small blocks, so that there is something to skip in short prompts.
config::SparseAttentionConfig some_config() {
  return config::parse_config(R"({"sparse_cfg": {
      "calibration": {"target_sparse_ratio": {"prefill": 0.3, "decode": 0.4}, "samples": 4, "max_seqlen": 1024,
                      "num_length_bins": 2, "chunk_size": -1, "num_decode_tokens": 3},
      "*attn*": {"method": "skip_softmax", "br": 8, "bc": 8}}})",
                              "test");
}

models::CausalLM& model() {
  static const auto loaded = checkpoint::load_model(MODELOPT_TEST_DATA "/models/llama_llama3rope");
  return *loaded.model;
}

const RulerGenerator& generator() {
  static const RulerGenerator instance(
      checkpoint::Tokenizer::from_file(MODELOPT_TEST_DATA "/tokenizers/bytes/tokenizer.json"),
      Haystack::from_path(MODELOPT_TEST_DATA "/text/opticks.txt"));
  return instance;
}

CalibrationResult run(const config::SparseAttentionConfig& config, CalibrateOptions options = {}) {
  options.extrapolate = true;
  return calibrate(model(), generator(), config, options);
}

std::string message_of(const std::function<void(config::SparseAttentionConfig&, CalibrateOptions&)>& change) {
  config::SparseAttentionConfig config = some_config();
  CalibrateOptions options;
  change(config, options);
  try {
    static_cast<void>(calibrate(model(), generator(), config, options));
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

config::SkipSoftmaxConfig& rule_of(config::SparseAttentionConfig& config) {
  return *config::skip_softmax_parameters(*config.rules.at(0).rule.method);
}

}  // namespace

TEST_CASE("the measured shares are what the method skips with each threshold") {
  const config::SparseAttentionConfig config = some_config();
  const CalibrationResult result = run(config);
  REQUIRE(result.rules.size() == 1);
  REQUIRE(result.rules[0].calibration.prefill);
  const config::ThresholdTable& table = *result.rules[0].calibration.prefill->table;
  CHECK((table.lengths == std::vector<std::int64_t>{512, 1024}));
  CHECK(table.thresholds.back() == methods::kLargestThreshold);
  CHECK(result.rules[0].rule == "*attn*");
  CHECK((result.rules[0].modules == std::vector<std::string>{"model.layers.0.self_attn", "model.layers.1.self_attn"}));
  CHECK(result.samples.size() == 4);

  // the same prompts with the last trial as the method's threshold, layer 0 alone: behind it, skipping changes scores
  const auto plan = plan_samples(*config.calibration, generator(), 0, 4096 - 3);
  std::int64_t visible = 0, skipped = 0;
  config::SparseAttentionConfig applied = config;
  applied.calibration.reset();
  applied.rules[0].pattern = "model.layers.0.self_attn";
  rule_of(applied).threshold = methods::kLargestThreshold;
  sparsify(model(), applied, {.collect_stats = true});
  for (const PlannedSample& planned : plan) {
    if (planned.length != 1024) continue;
    const auto sample = generator().make(planned.request);
    models::GenerateConfig generation;
    generation.max_new_tokens = 1;
    const auto stats = models::generate(model(), {sample.ids}, generation).prefill_stats;
    REQUIRE(stats.size() == 2);
    visible += stats[0].stats.select(2, 0).sum().item<std::int64_t>();
    skipped += stats[0].stats.select(2, 1).sum().item<std::int64_t>();
  }
  desparsify(model());
  CHECK(skipped > 0);
  CHECK(skipped < visible);

  config::SparseAttentionConfig first_layer = config;
  first_layer.rules[0].pattern = "model.layers.0.self_attn";
  const CalibrationResult one = run(first_layer);
  CHECK((one.rules[0].modules == std::vector<std::string>{"model.layers.0.self_attn"}));
  CHECK(one.rules[0].calibration.prefill->table->shares.back().back() ==
        static_cast<double>(skipped) / static_cast<double>(visible));
}

TEST_CASE("the rules get the calibration and its targets, and sparsify() takes them") {
  CalibrationResult result = run(some_config());
  const config::SkipSoftmaxConfig& rule = rule_of(result.config);
  REQUIRE(std::holds_alternative<config::ThresholdCalibration>(rule.threshold));
  CHECK(std::get<config::ThresholdCalibration>(rule.threshold) == result.rules[0].calibration);
  CHECK((rule.target_sparsity == config::PhaseTargets{.prefill = 0.3, .decode = 0.4}));
  CHECK(result.rules[0].calibration.br == 8);
  CHECK(result.rules[0].calibration.provenance->samples == 4);
  CHECK(result.rules[0].calibration.provenance->data_hash.size() == 64);
  CHECK(sparsify(model(), result.config).sparse_modules() == 2);
  desparsify(model());
  CHECK(config::parse_config(config::to_json(result.config).dump(), "again") == result.config);
}

TEST_CASE("chunks of the prompt count like the whole") {
  config::SparseAttentionConfig config = some_config();
  const CalibrationResult whole = run(config);
  config.calibration->chunk_size = 128;
  const CalibrationResult chunked = run(config);
  // counts of the same decisions; linear layers of other shapes may round a score across a threshold
  const auto& a = whole.rules[0].calibration.prefill->table->shares;
  const auto& b = chunked.rules[0].calibration.prefill->table->shares;
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t t = 0; t < a[i].size(); ++t) CHECK(std::abs(a[i][t] - b[i][t]) < 1e-3);
}

TEST_CASE("the seed fixes the data, and another one changes it") {
  const auto calibration = [](const CalibrateOptions& options) {
    return run(some_config(), options).rules[0].calibration;
  };
  CHECK(calibration({}) == calibration({}));
  CHECK(calibration({.seed = 1}).provenance->data_hash != calibration({}).provenance->data_hash);
}

TEST_CASE("a calibration that was broken off goes on from its cache, with the same result") {
  const TemporaryDirectory directory;
  config::SparseAttentionConfig config = some_config();
  config.calibration->cache_dir = (directory / "cache").string();
  int prompts = 0;
  CalibrateOptions options{.model_hash = "some model"};
  options.progress = [&](std::int64_t, std::int64_t) {
    if (++prompts == 2) throw Error("stop");
  };
  CHECK_THROWS_MATCHES(run(config, options), Error, Message("stop"));
  options.progress = {};
  const CalibrationResult resumed = run(config, options);
  CHECK(resumed.samples[0].cached);
  CHECK(resumed.samples[1].cached);
  CHECK_FALSE(resumed.samples[2].cached);
  CHECK(resumed.rules[0].calibration == run(some_config()).rules[0].calibration);
  // other models, other seeds and other trials find nothing
  CHECK_FALSE(run(config, {.model_hash = "another model"}).samples[0].cached);
  CHECK_FALSE(run(config, {.seed = 1, .model_hash = "some model"}).samples[0].cached);
  config.calibration->threshold_trials = {0.1, 0.5};
  CHECK_FALSE(run(config, options).samples[0].cached);
}

TEST_CASE("the cache knows what the modules that are not calibrated did") {
  const TemporaryDirectory directory;
  config::SparseAttentionConfig config = some_config();
  config.calibration->cache_dir = (directory / "cache").string();
  config.rules.push_back({"model.layers.0.*", {.enable = true, .method = config::SparseSoftmaxConfig{}}});
  const CalibrateOptions options{.model_hash = "some model"};
  const auto shares = [](const CalibrationResult& result) {
    return result.rules[0].calibration.prefill->table->shares;
  };
  const CalibrationResult two_of_four = run(config, options);
  CHECK(run(config, options).samples[0].cached);
  config.rules[1].rule.method = config::SparseSoftmaxConfig{.sparsity_n = 1, .dense_window_size = 0};
  const CalibrationResult one_of_four = run(config, options);
  CHECK_FALSE(one_of_four.samples[0].cached);
  CHECK(shares(one_of_four) != shares(two_of_four));
  config.rules[1].rule = {};  // dense
  CHECK_FALSE(run(config, options).samples[0].cached);
}

TEST_CASE("noise is data of its own, and finds no counts of a text") {
  const TemporaryDirectory directory;
  config::SparseAttentionConfig config = some_config();
  config.calibration->cache_dir = (directory / "cache").string();
  const CalibrateOptions options{.extrapolate = true, .model_hash = "some model"};
  const CalibrationResult text = run(config, options);
  const RulerGenerator noise(generator().tokenizer(), Haystack::noise());
  const CalibrationResult other = calibrate(model(), noise, config, options);
  CHECK(other.rules[0].calibration.provenance->data_hash != text.rules[0].calibration.provenance->data_hash);
  REQUIRE(other.samples[0].task == RulerTask::kNiahSingle);
  CHECK_FALSE(other.samples[0].cached);
}

TEST_CASE("each rule is fitted to its own modules, and one rule on all of them as before") {
  const CalibrationResult together = run(some_config());
  config::SparseAttentionConfig config = some_config();
  config.rules.push_back({"model.layers.1.*", config.rules[0].rule});
  config::skip_softmax_parameters(*config.rules[1].rule.method)->target_sparsity = {.prefill = 0.2, .decode = 0.0};
  const CalibrationResult apart = run(config);
  REQUIRE(apart.rules.size() == 2);
  const RuleCalibration &first = apart.rules[0], &second = apart.rules[1];
  CHECK(first.rule == "*attn*");
  CHECK((first.modules == std::vector<std::string>{"model.layers.0.self_attn"}));
  CHECK((first.targets == config::PhaseTargets{.prefill = 0.3, .decode = 0.4}));
  CHECK(second.rule == "model.layers.1.*");
  CHECK((second.modules == std::vector<std::string>{"model.layers.1.self_attn"}));
  CHECK((second.targets == config::PhaseTargets{.prefill = 0.2, .decode = 0.0}));
  CHECK_FALSE(second.calibration.decode);

  // what each gets is what it would get alone; the pool is their mean, as both have as many blocks
  config::SparseAttentionConfig alone = some_config();
  alone.rules[0].pattern = "model.layers.0.*";
  CHECK(run(alone).rules[0].calibration == first.calibration);
  const auto shares = [](const RuleCalibration& rule) { return rule.calibration.prefill->table->shares; };
  const auto pool = shares(together.rules[0]), a = shares(first), b = shares(second);
  for (std::size_t i = 0; i < pool.size(); ++i)
    for (std::size_t t = 0; t < pool[i].size(); ++t) CHECK(std::abs(pool[i][t] - (a[i][t] + b[i][t]) / 2) < 1e-12);
  CHECK(a != b);
  CHECK(first.calibration.prefill->exponential != second.calibration.prefill->exponential);

  const auto given = [&](std::size_t i) {
    return std::get<config::ThresholdCalibration>(
        config::skip_softmax_parameters(*apart.config.rules[i].rule.method)->threshold);
  };
  CHECK(given(0) == first.calibration);
  CHECK(given(1) == second.calibration);
  CHECK(sparsify(model(), apart.config).sparse_modules() == 2);
  desparsify(model());
}

TEST_CASE("of several rules, the one that cannot be calibrated is named") {
  const auto with_second = [](auto change) {
    return message_of([&](auto& config, auto&) {
      config.rules.push_back({"model.layers.1.*", config.rules[0].rule});
      change(config, *config::skip_softmax_parameters(*config.rules[1].rule.method));
    });
  };
  CHECK(
      with_second([](auto& config, auto&) { config.rules[1].pattern = "model.layers.*"; }) ==
      "rule *attn* has no attention module to calibrate, expected one that no later rule takes, or the rule disabled");
  CHECK(with_second([](auto&, auto& rule) { rule.target_sparsity = {.prefill = 0.0, .decode = 0.0}; }) ==
        "rule model.layers.1.*: no phase has a target above 0, expected target_sparse_ratio of the calibration or "
        "target_sparsity of a rule");
  CHECK_THAT(
      with_second([](auto&, auto& rule) { rule.target_sparsity.prefill = 0.99; }),
      Catch::Matchers::StartsWith("rule model.layers.1.*, prefill: target sparsity 0.99 at 1024 tokens, expected "));
}

TEST_CASE("what cannot be calibrated is refused") {
  CHECK(message_of([](auto& config, auto&) { config.calibration.reset(); })
            .ends_with(
                "has no \"calibration\", expected one beside the patterns, or the preset SKIP_SOFTMAX_TRITON_CALIB"));
  CHECK(message_of([](auto& config, auto&) {
          config.rules[0].rule.method = config::SparseSoftmaxConfig{};
        }).ends_with("has no enabled skip-softmax rule to calibrate, expected flash_skip_softmax or skip_softmax"));
  CHECK(message_of([](auto& config, auto&) { config.calibration->max_seqlen = 8192; }) ==
        "calibration.max_seqlen is 8192, expected at most 4096, the model's context");
  CHECK(message_of([](auto& config, auto&) { config.calibration->chunk_size = 100; }) ==
        "calibration.chunk_size is 100, expected -1 (the whole prompt) or a multiple of br, 8");
  CHECK(message_of([](auto& config, auto&) {
          config.rules.push_back({"model.layers.1.*", config.rules[0].rule});
          config::skip_softmax_parameters(*config.rules[1].rule.method)->bc = 16;
        }) ==
        "skip-softmax rules with blocks of 8 x 8 and 8 x 16, expected the same in all rules that are calibrated "
        "together");
  CHECK(message_of([](auto&, auto& options) { options.fit_length = 2048; }) ==
        "the exponential cannot be fitted for 2048 tokens, expected 512 to 1024, the lengths of the calibration");
  CHECK(message_of(
            [](auto& config, auto&) { config.calibration->target_sparse_ratio = {.prefill = 0.0, .decode = 0.0}; }) ==
        "no phase has a target above 0, expected target_sparse_ratio of the calibration or target_sparsity of a rule");
}

TEST_CASE("a target beyond what any threshold skips is refused with the largest that can be reached") {
  const std::string message = message_of(
      [](auto& config, auto&) { config.calibration->target_sparse_ratio = {.prefill = 0.99, .decode = 0.4}; });
  CHECK_THAT(message, Catch::Matchers::StartsWith("prefill: target sparsity 0.99 at 1024 tokens, expected "));
  CHECK_THAT(message,
             Catch::Matchers::Matches(".*; the largest that can be reached is (0\\.[0-9]+) \\(0\\.[0-9]+ at 512, "
                                      "\\1 at 1024\\); with a cache_dir the counts are kept for another target"));
}

TEST_CASE("a target below what the smallest threshold skips asks for smaller trials") {
  const std::string message = message_of([](auto& config, auto&) {
    config.calibration->threshold_trials = {0.9};
    config.calibration->target_sparse_ratio = {.prefill = 0.001, .decode = 0.0};
  });
  CHECK_THAT(message, Catch::Matchers::StartsWith("prefill: target sparsity 0.001 at 1024 tokens, expected "));
  CHECK_THAT(message, Catch::Matchers::EndsWith("; smaller threshold_trials reach smaller targets"));
}

TEST_CASE("a target beyond the exponential fit is refused with what can be reached, not with smaller trials") {
  const std::string message = message_of([](auto& config, auto& options) {
    config.calibration->target_sparse_ratio = {.prefill = 0.99, .decode = 0.0};
    options.form = config::CalibrationForm::kExponential;
    options.fit_length = 512;
  });
  CHECK_THAT(message, Catch::Matchers::ContainsSubstring("the range of the exponential fit"));
  CHECK_THAT(message, Catch::Matchers::ContainsSubstring("; the largest that can be reached is 0."));
}

TEST_CASE("a rule that could not be applied is refused before anything is measured") {
  int prompts = 0;
  config::SparseAttentionConfig config = some_config();
  rule_of(config).is_causal = false;
  CHECK_THROWS_MATCHES(run(config, {.progress = [&](std::int64_t, std::int64_t) { ++prompts; }}), Unsupported,
                       Catch::Matchers::MessageMatches(Catch::Matchers::ContainsSubstring("is_causal is false")));
  config = some_config();
  CHECK_THROWS_MATCHES(run(config, {.kernel = "sm80", .progress = [&](std::int64_t, std::int64_t) { ++prompts; }}),
                       Error, Catch::Matchers::MessageMatches(Catch::Matchers::ContainsSubstring("sm80")));
  CHECK(prompts == 0);
}

TEST_CASE("prompts that leave room for decode steps count for their own length") {
  config::SparseAttentionConfig config = some_config();
  config.calibration->samples = 1;
  config.calibration->num_length_bins = 1;
  config.calibration->max_seqlen = 4096;  // the model's context, of which three decode steps take their part
  const CalibrationResult result = run(config);
  CHECK((result.rules[0].calibration.prefill->table->lengths == std::vector<std::int64_t>{4093}));
  CHECK(result.rules[0].calibration.prefill->exponential->fit->length == 4093);
  CHECK(run(config, {.fit_length = 4096}).rules[0].calibration.prefill->exponential->fit->length == 4093);
  CHECK(result.samples[0].length == 4093);
  CHECK(result.samples[0].tokens <= 4093);
}

TEST_CASE("a phase without a target stays uncalibrated") {
  config::SparseAttentionConfig config = some_config();
  config.calibration->target_sparse_ratio = {.prefill = 0.3, .decode = 0.0};
  const CalibrationResult result = run(config);
  CHECK(result.rules[0].calibration.prefill);
  CHECK_FALSE(result.rules[0].calibration.decode);
}
