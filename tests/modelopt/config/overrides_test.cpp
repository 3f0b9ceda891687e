#include <modelopt/config/overrides.h>

#include <catch2/catch_test_macros.hpp>

#include <modelopt/config/parse.h>

using namespace modelopt;
using namespace modelopt::config;

namespace {

constexpr const char* kConfig = R"({"sparse_cfg": {
    "*attn*": {"method": "triton_sparse_softmax", "dense_sink_tokens": 4},
    "model.layers.0.*": {"method": "sparse_softmax", "sparsity_n": 1},
    "off": {"method": "sparse_softmax", "enable": false},
    "default": {"enable": false}}})";

SparseAttentionConfig with(const std::vector<std::string>& assignments) {
  return parse_config(kConfig, "test", assignments);
}

const SparseSoftmaxConfig& parameters(const SparseAttentionConfig& config, std::size_t rule) {
  return std::get<SparseSoftmaxConfig>(*config.rules.at(rule).rule.method);
}

std::string message_of(const std::vector<std::string>& assignments, const char* json = kConfig) {
  try {
    (void)parse_config(json, "test", assignments);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("a field alone is set in every enabled rule") {
  const auto config = with({"sparsity_n=3"});
  CHECK(parameters(config, 0).sparsity_n == 3);
  CHECK(parameters(config, 1).sparsity_n == 3);
  CHECK(parameters(config, 2).sparsity_n == 2);
}

TEST_CASE("an enabled default is one of the enabled rules") {
  const auto config =
      parse_config(R"({"sparse_cfg": {"default": {"method": "sparse_softmax"}}})", "test", {"sparsity_n=1"});
  CHECK(std::get<SparseSoftmaxConfig>(*config.default_rule.method).sparsity_n == 1);
}

TEST_CASE("a field after a pattern is set in that rule, which may have dots") {
  CHECK(parameters(with({"*attn*.sparsity_n=3"}), 0).sparsity_n == 3);
  CHECK(parameters(with({"*attn*.sparsity_n=3"}), 1).sparsity_n == 1);
  CHECK(parameters(with({"model.layers.0.*.sparsity_n=3"}), 1).sparsity_n == 3);
  CHECK(parameters(with({"'model.layers.0.*'.sparsity_n=3"}), 1).sparsity_n == 3);
  CHECK(parameters(with({"\"*attn*\".sparsity_n=3"}), 0).sparsity_n == 3);
  CHECK(with({"off.enable=true"}).rules[2].rule.enable);
}

TEST_CASE("assignments apply in order and are validated together") {
  const auto config = with({"sparsity_n=7", "sparsity_m=8", "sparsity_n=6"});
  CHECK(parameters(config, 0).sparsity_n == 6);
  CHECK(parameters(config, 0).sparsity_m == 8);
}

TEST_CASE("a field replaces the value under its alias, and the other way round") {
  CHECK(parameters(with({"num_sink_tokens=9"}), 0).num_sink_tokens == 9);
  CHECK(parameters(with({"dense_recent_tokens=9"}), 1).dense_window_size == 9);
  CHECK(parameters(with({"dense_recent_tokens=9", "dense_window_size=10"}), 1).dense_window_size == 10);
}

TEST_CASE("a value that is no JSON is a string") {
  CHECK(parameters(with({"model.layers.0.*.backend=eager"}), 1).backend == MethodBackend::kEager);
  CHECK(parameters(with({"model.layers.0.*.backend=\"eager\""}), 1).backend == MethodBackend::kEager);
}

TEST_CASE("no assignment builds what a file could not say") {
  const std::string rule = R"($.sparse_cfg["*attn*"])";
  CHECK(message_of({"*attn*.sparsity_n=4"}) ==
        "test with *attn*.sparsity_n=4: " + rule +
            ".sparsity_n: 4, expected an integer from 0 to 3 (less than sparsity_m = 4)");
  CHECK(message_of({"*attn*.sparsity_n=two"}) ==
        "test with *attn*.sparsity_n=two: " + rule + R"(.sparsity_n: "two", expected an integer from 0 to 7)");
  CHECK(message_of({"*attn*.backend=eager"}) ==
        "test with *attn*.backend=eager: " + rule +
            R"(.backend: "eager", expected fused or triton with method triton_sparse_softmax)");
  CHECK(message_of({"*attn*.nonsense=1"})
            .starts_with("test with *attn*.nonsense=1: " + rule + ".nonsense: unknown key (value 1)"));
  CHECK(message_of({"calibration.samples=many"}) ==
        "test with calibration.samples=many: $.sparse_cfg.calibration.samples: \"many\", expected an integer from 1 to "
        "2147483647");
  CHECK(message_of({"calibration.sample=64"})
            .starts_with("test with calibration.sample=64: $.sparse_cfg.calibration.sample: unknown key (value 64)"));
}

TEST_CASE("the calibration block is set by its fields") {
  const auto config = with({"calibration.samples=8", "calibration.target_sparse_ratio={\"prefill\": 0.3}"});
  REQUIRE(config.calibration);
  CHECK(config.calibration->samples == 8);
  CHECK(config.calibration->target_sparse_ratio == PhaseTargets{.prefill = 0.3, .decode = std::nullopt});
}

TEST_CASE("of fields that exclude one another the one that is set replaces the others") {
  const auto threshold = [](const std::string& preset, const std::vector<std::string>& assignments) {
    const auto config = load_config(preset, assignments);
    return skip_softmax_parameters(*config.rules.at(0).rule.method)->threshold;
  };
  const SkipThreshold by_phase = PhaseThresholds{.prefill = {0.01}, .decode = {}};
  const std::string thresholds = R"(thresholds={"prefill": 0.01})";
  CHECK(threshold("SKIP_SOFTMAX_TRITON_DEFAULT", {thresholds}) == by_phase);
  CHECK(threshold("SKIP_SOFTMAX_DEFAULT", {"skip_softmax_threshold=0.25"}) == SkipThreshold(0.25));
  CHECK(threshold("SKIP_SOFTMAX_DEFAULT", {"*attn*.skip_softmax_threshold=0.25", thresholds}) == by_phase);
  CHECK(threshold("SKIP_SOFTMAX_DEFAULT", {thresholds, "skip_softmax_threshold=0.25"}) == SkipThreshold(0.25));
}

TEST_CASE("null takes a field out of a rule, and a calibration block out of the configuration") {
  CHECK(parameters(with({"num_sink_tokens=null"}), 0).num_sink_tokens == 0);  // by its alias; rule 1 has none
  CHECK(parameters(with({"model.layers.0.*.sparsity_n=null"}), 1).sparsity_n == 2);
  CHECK(parameters(with({"sparsity_n=null", "sparsity_n=3"}), 1).sparsity_n == 3);

  constexpr const char* kCalibrated = R"({"sparse_cfg": {"calibration": {}, "*attn*": {"method": "skip_softmax",
      "target_sparsity": {"prefill": 0.4}, "threshold_calibration": {"br": 128, "bc": 128,
      "prefill": {"form": "exponential", "exponential": {"a": 7.9, "b": 8.6}}}}}})";
  const auto fixed =
      parse_config(kCalibrated, "test", {"skip_softmax_threshold=0.2", "target_sparsity=null", "calibration=null"});
  CHECK_FALSE(fixed.calibration);
  CHECK(*skip_softmax_parameters(*fixed.rules[0].rule.method) == SkipSoftmaxConfig{.threshold = 0.2});
  CHECK(message_of({"skip_softmax_threshold=0.2", "calibration=null"}, kCalibrated) ==
        "test with skip_softmax_threshold=0.2 calibration=null: $.sparse_cfg[\"*attn*\"].target_sparsity.prefill: 0.4, "
        "expected a threshold_calibration for prefill, or a calibration block beside the patterns");
}

TEST_CASE("null for what a rule cannot be without is refused") {
  CHECK(
      message_of({"*attn*.nonsense=null"})
          .starts_with(R"(test with *attn*.nonsense=null: $.sparse_cfg["*attn*"].nonsense: unknown key (value null))"));
  CHECK(message_of({"*attn*.backend=null"}) ==
        R"(test with *attn*.backend=null: $.sparse_cfg["*attn*"].backend: null, expected fused or triton with method )"
        "triton_sparse_softmax");
  CHECK(message_of({"*attn*.enable=null"}) ==
        R"(test with *attn*.enable=null: $.sparse_cfg["*attn*"].enable: null, expected true or false)");
}

TEST_CASE("assignments without the form, or for no rule, are refused") {
  CHECK(message_of({"sparsity_n"}) ==
        "test: sparsity_n: not an assignment, expected FIELD=VALUE or PATTERN.FIELD=VALUE");
  CHECK(message_of({"=2"}) == "test: =2: not an assignment, expected FIELD=VALUE or PATTERN.FIELD=VALUE");
  CHECK(message_of({"'*attn*.sparsity_n=2"}) ==
        "test: '*attn*.sparsity_n=2: a quote without its end, expected 'PATTERN'.FIELD=VALUE");
  CHECK(message_of({"mlp.sparsity_n=2"}) ==
        "test: mlp.sparsity_n=2: no rule has the pattern mlp, expected *attn*, model.layers.0.*, off or default");
  CHECK(message_of({"sparsity_n=2"}, R"({"sparse_cfg": {"default": {"enable": false}}})") ==
        "test: sparsity_n=2: no rule is enabled, expected PATTERN.FIELD=VALUE");
}

TEST_CASE("the configuration itself must be valid before anything is set") {
  CHECK(message_of({"sparsity_n=1"}, R"({"sparse_cfg": {"*": {"method": "sparse_softmax", "sparsity_n": 9}}})") ==
        R"(test: $.sparse_cfg["*"].sparsity_n: 9, expected an integer from 0 to 3 (less than sparsity_m = 4))");
}
