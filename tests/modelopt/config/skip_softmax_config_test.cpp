// Fields of the skip-softmax methods and of the calibration block.
#include <modelopt/config/parse.h>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <string>

#include <modelopt/config/method_descriptor.h>

using namespace modelopt;
using namespace modelopt::config;

namespace {

// A configuration with one rule of this method and these members.
std::string rule(const std::string& method, const std::string& members) {
  return R"({"sparse_cfg": {"*attn*": {"method": ")" + method + "\"" + (members.empty() ? "" : ", " + members) + "}}}";
}
std::string skip(const std::string& members) { return rule("skip_softmax", members); }
// The same beside an order to calibrate, in which targets are to the point.
std::string ordered(const std::string& members) {
  return R"({"sparse_cfg": {"calibration": {}, "*attn*": {"method": "skip_softmax", )" + members + "}}}";
}
std::string calibration(const std::string& members) {
  return R"({"sparse_cfg": {"calibration": {)" + members + R"(}, "*attn*": {"method": "flash_skip_softmax"}}})";
}

SparseAttentionConfig parse(const std::string& json) { return parse_config(json, "test"); }
SkipSoftmaxConfig parameters(const std::string& json) {
  return *skip_softmax_parameters(parse(json).rules.at(0).rule.method.value());
}

std::string message_of(const std::string& json) {
  try {
    (void)parse(json);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

const std::string kRule = R"(test: $.sparse_cfg["*attn*"])";
const std::string kCalibration = "test: $.sparse_cfg.calibration";
const std::string kCalibrated = R"("threshold_calibration": {"br": 128, "bc": 128,
    "prefill": {"form": "exponential", "exponential": {"a": 7.9, "b": 8.6}}})";

}  // namespace

TEST_CASE("every parameter of skip-softmax is read") {
  const SkipSoftmaxConfig expected{.threshold = PhaseThresholds{.prefill = {0.1, 0.2}, .decode = {0.01, 0.3}},
                                   .target_sparsity = {.prefill = 0.5, .decode = std::nullopt},
                                   .br = 64,
                                   .bc = 72,
                                   .initial_disabled_steps = 5,
                                   .collect_stats = true,
                                   .is_causal = false,
                                   .sparsity_n = 3,
                                   .sparsity_m = 8,
                                   .num_sink_tokens = 4,
                                   .dense_window_size = 16,
                                   .export_sparse_softmax = true,
                                   .backend = MethodBackend::kEager};
  CHECK(parameters(ordered(R"("thresholds": {"prefill": [0.1, 0.2], "decode": [0.01, 0.3]}, "br": 64, "bc": 72,
      "target_sparsity": {"prefill": 0.5}, "initial_disabled_steps": 5, "collect_stats": true, "is_causal": false,
      "sparsity_n": 3, "sparsity_m": 8, "dense_sink_tokens": 4, "dense_recent_tokens": 16,
      "export_sparse_softmax": true, "backend": "pytorch")")) == expected);
}

TEST_CASE("absent parameters of skip-softmax are upstream's") {
  CHECK(parameters(skip("")) == SkipSoftmaxConfig{});
  CHECK(std::get<double>(parameters(skip("")).threshold) == 0.1);
  CHECK(parameters(rule("flash_skip_softmax", "")) == FlashSkipSoftmaxConfig{}.parameters);
  CHECK(parameters(rule("flash_skip_softmax", "")).backend == MethodBackend::kEager);
}

TEST_CASE("a threshold is a number, or a number or a list by phase") {
  CHECK(parameters(skip(R"("skip_softmax_threshold": 0)")).threshold == SkipThreshold(0.0));
  CHECK(parameters(rule("flash_skip_softmax", R"("skip_softmax_threshold": 0.25)")).threshold == SkipThreshold(0.25));
  CHECK(parameters(skip(R"("thresholds": {"prefill": 0.1, "decode": [0]})")).threshold ==
        SkipThreshold(PhaseThresholds{.prefill = {0.1}, .decode = {0.0}}));
  CHECK(parameters(skip(R"("thresholds": {"decode": 0.1})")).threshold ==
        SkipThreshold(PhaseThresholds{.prefill = {}, .decode = {0.1}}));
}

TEST_CASE("a target is a share for both phases or by phase") {
  CHECK(parameters(ordered(R"("target_sparsity": 0.3)")).target_sparsity ==
        PhaseTargets{.prefill = 0.3, .decode = 0.3});
  CHECK(parameters(ordered(R"("target_sparsity": {"decode": 0})")).target_sparsity ==
        PhaseTargets{.prefill = std::nullopt, .decode = 0.0});
}

TEST_CASE("skip-softmax configurations survive a round trip") {
  for (const std::string& json :
       {skip(""), rule("flash_skip_softmax", ""), skip(R"("thresholds": {"prefill": [0.1, 0.2]}, "bc": 8)"),
        skip(kCalibrated + R"(, "target_sparsity": {"prefill": 0.5})"), calibration(""),
        calibration(R"("threshold_trials": [0.001, 0.5], "cache_dir": "c", "chunk_size": -1, "fit_logspace": true)")}) {
    CAPTURE(json);
    const SparseAttentionConfig config = parse(json);
    CHECK(parse_config(to_json(config).dump(), "again") == config);
  }
  CHECK(to_json(parse(skip("")))["sparse_cfg"]["*attn*"].dump() ==
        R"({"method":"skip_softmax","skip_softmax_threshold":0.1,"br":128,"bc":128,"initial_disabled_steps":0,)"
        R"("collect_stats":false,"is_causal":true,"export_sparse_softmax":false,"sparsity_n":0,"sparsity_m":4,)"
        R"("num_sink_tokens":0,"dense_window_size":64,"backend":"fused","enable":true})");
}

TEST_CASE("thresholds out of their domain are refused, each at its place") {
  const std::string number = ", expected a number from 0 on and less than 1";
  CHECK(message_of(skip(R"("skip_softmax_threshold": 1)")) == kRule + ".skip_softmax_threshold: 1.0" + number);
  CHECK(message_of(skip(R"("skip_softmax_threshold": 0.9999999999)")) ==
        kRule + ".skip_softmax_threshold: 0.9999999999" + number);
  CHECK(message_of(skip(R"("skip_softmax_threshold": -0.1)")) == kRule + ".skip_softmax_threshold: -0.1" + number);
  CHECK(message_of(skip(R"("skip_softmax_threshold": "0.1")")) == kRule + ".skip_softmax_threshold: \"0.1\"" + number);
  CHECK(message_of(skip(R"("skip_softmax_threshold": null)")) == kRule + ".skip_softmax_threshold: null" + number);
  CHECK(message_of(skip(R"("thresholds": {"prefill": [0.1, 1.5]})")) == kRule + ".thresholds.prefill[1]: 1.5" + number);
  CHECK(message_of(skip(R"("thresholds": {"decode": true})")) ==
        kRule + ".thresholds.decode: true" + number + ", or an ascending list of them");
  const std::string list = ", expected an ascending list of numbers from 0 on and less than 1";
  CHECK(message_of(skip(R"("thresholds": {"prefill": [0.2, 0.1]})")) ==
        kRule + ".thresholds.prefill: [0.2,0.1]" + list);
  CHECK(message_of(skip(R"("thresholds": {"prefill": [0.2, 0.2]})")) ==
        kRule + ".thresholds.prefill: [0.2,0.2]" + list);
  CHECK(message_of(skip(R"("thresholds": {"prefill": []})")) == kRule + ".thresholds.prefill: []" + list);
  CHECK(message_of(skip(R"("thresholds": {"prefill": [0.1], "decode": [0.1, 0.2]})")) ==
        kRule + R"(.thresholds: {"prefill":[0.1],"decode":[0.1,0.2]}, expected as many thresholds in prefill as in )"
                "decode (1 and 2)");
  CHECK(message_of(skip(R"("thresholds": {"prefil": 0.1})")) ==
        kRule + ".thresholds.prefil: unknown key, expected prefill or decode");
  for (const std::string value : {"0.1", "{}", "[0.1]"}) {
    CAPTURE(value);
    CHECK(message_of(skip("\"thresholds\": " + value))
              .starts_with(kRule + ".thresholds: " + value + ", expected {\"prefill\": …, \"decode\": …}, of each a"));
  }
}

TEST_CASE("one place says what the threshold is") {
  CHECK(message_of(skip(R"("thresholds": {"prefill": 0.1}, "skip_softmax_threshold": 0.1)")) ==
        kRule + ".skip_softmax_threshold: 0.1, expected either thresholds or skip_softmax_threshold, not both");
  CHECK(message_of(skip(R"("target_sparsity": 0.5, "skip_softmax_threshold": 0.1, )" + kCalibrated))
            .ends_with("expected either skip_softmax_threshold or threshold_calibration, not both"));
}

TEST_CASE("blocks, targets and flags out of their domain are refused") {
  CHECK(message_of(skip(R"("br": 0)")) == kRule + ".br: 0, expected an integer from 1 to 2147483647");
  CHECK(message_of(skip(R"("bc": 100)")) == kRule + ".bc: 100, expected a positive multiple of 8");
  CHECK(message_of(skip(R"("bc": -8)")) == kRule + ".bc: -8, expected a positive multiple of 8");
  CHECK(message_of(skip(R"("bc": "128")")) == kRule + ".bc: \"128\", expected a positive multiple of 8");
  CHECK(message_of(skip(R"("initial_disabled_steps": -1)")) ==
        kRule + ".initial_disabled_steps: -1, expected an integer from 0 to 2147483647");
  CHECK(message_of(skip(R"("collect_stats": 1)")) == kRule + ".collect_stats: 1, expected true or false");
  CHECK(message_of(skip(R"("target_sparsity": 1)")) ==
        kRule + ".target_sparsity.prefill: 1.0, expected a share from 0 on and less than 1\n" + kRule +
            ".target_sparsity.decode: 1.0, expected a share from 0 on and less than 1");
  CHECK(message_of(skip(R"("target_sparsity": {"prefill": "half"})")) ==
        kRule + ".target_sparsity.prefill: \"half\", expected a share from 0 on and less than 1");
  CHECK(message_of(skip(R"("sparsity_n": 4)")) ==
        kRule + ".sparsity_n: 4, expected an integer from 0 to 3 (less than sparsity_m = 4)");
  CHECK(message_of(skip(R"("export_sparse_softmax": true)")) ==
        kRule + ".export_sparse_softmax: true, expected false, or sparsity_n > 0: there is no N:M part to export");
}

TEST_CASE("backends of the skip-softmax methods") {
  CHECK(parameters(rule("triton_skip_softmax", R"("backend": "triton")")).backend == MethodBackend::kFused);
  CHECK(message_of(rule("triton_skip_softmax", R"("backend": "eager")")) ==
        kRule + ".backend: \"eager\", expected fused or triton with method triton_skip_softmax");
  CHECK(message_of(rule("flash_skip_softmax", R"("backend": "fused")")) ==
        kRule + ".backend: \"fused\", expected eager or pytorch with method flash_skip_softmax");
}

TEST_CASE("a calibration goes with its block size and a target for each of its phases") {
  CHECK(std::holds_alternative<ThresholdCalibration>(
      parameters(skip(kCalibrated + R"(, "target_sparsity": {"prefill": 0.5})")).threshold));
  CHECK(message_of(skip(kCalibrated)) ==
        kRule + ".target_sparsity: missing, expected a target for prefill, which threshold_calibration has");
  CHECK(message_of(skip(kCalibrated + R"(, "target_sparsity": {"prefill": 0.5}, "br": 64)")) ==
        kRule + ".br: 64, expected 128, for which threshold_calibration holds");
  CHECK(message_of(skip(R"("threshold_calibration": {"br": 128, "bc": 128, "prefill": {"form": "line"}})")) ==
        kRule + ".threshold_calibration.prefill.form: \"line\", expected exponential or table");
  CHECK(message_of(skip(R"("threshold_calibration": 3)")) == kRule + ".threshold_calibration: 3, expected an object");
}

TEST_CASE("a target that nothing can reach is refused, by its phase") {
  const auto message = [](const std::string& phase, const std::string& target) {
    return str(".target_sparsity.", phase, ": ", target, ", expected a threshold_calibration for ", phase,
               ", or a calibration block beside the patterns");
  };
  CHECK(message_of(skip(R"("target_sparsity": 0.5)")) ==
        kRule + message("prefill", "0.5") + "\n" + kRule + message("decode", "0.5"));
  CHECK(message_of(skip(R"("skip_softmax_threshold": 0.1, "target_sparsity": {"decode": 0.25})")) ==
        kRule + message("decode", "0.25"));
  CHECK(message_of(
            R"({"sparse_cfg": {"default": {"method": "flash_skip_softmax", "target_sparsity": {"prefill": 0}}}})") ==
        "test: $.sparse_cfg.default" + message("prefill", "0.0"));
  CHECK(message_of(ordered(R"("target_sparsity": 0.5)")) == "no error");
  CHECK(message_of(skip(R"("enable": false, "target_sparsity": 0.5)")) == "no error");
  // what was calibrated is prefill alone
  CHECK(message_of(skip(kCalibrated + R"(, "target_sparsity": {"prefill": 0.5, "decode": 0.5})")) ==
        kRule + ".target_sparsity.decode: 0.5, expected 0 or none: threshold_calibration has no decode");
  CHECK(message_of(skip(kCalibrated + R"(, "target_sparsity": {"prefill": 0.5, "decode": 0})")) == "no error");
}

TEST_CASE("every field of the calibration block is read, and the others are upstream's") {
  CHECK(parse(calibration("")).calibration == CalibrationConfig{});
  const CalibrationConfig expected{.target_sparse_ratio = {.prefill = 0.3, .decode = 0.7},
                                   .samples = 16,
                                   .max_seqlen = 4096,
                                   .num_length_bins = 3,
                                   .chunk_size = 1024,
                                   .num_decode_tokens = 5,
                                   .threshold_trials = {0.001, 0.5},
                                   .fit_logspace = true,
                                   .cache_dir = "cache",
                                   .data_dir = "texts"};
  CHECK(parse(calibration(R"("target_sparse_ratio": {"prefill": 0.3, "decode": 0.7}, "samples": 16, "max_seqlen": 4096,
      "num_length_bins": 3, "chunk_size": 1024, "num_decode_tokens": 5, "threshold_trials": [0.001, 0.5],
      "fit_logspace": true, "cache_dir": "cache", "data_dir": "texts")"))
            .calibration == expected);
  CHECK(parse(calibration(R"("threshold_trials": null, "cache_dir": null, "data_dir": null)")).calibration ==
        CalibrationConfig{});
}

TEST_CASE("what the calibration block does not understand is an error") {
  CHECK(message_of(calibration(R"("sample": 16)")) ==
        kCalibration +
            ".sample: unknown key (value 16), expected target_sparse_ratio, samples, max_seqlen, num_length_bins, "
            "chunk_size, num_decode_tokens, threshold_trials, fit_logspace, cache_dir or data_dir");
  CHECK(message_of(R"({"sparse_cfg": {"calibration": 16}})") == kCalibration + ": 16, expected an object");
  CHECK(message_of(calibration(R"("samples": 0)")) ==
        kCalibration + ".samples: 0, expected an integer from 1 to 2147483647");
  CHECK(message_of(calibration(R"("max_seqlen": 512)")) ==
        kCalibration + ".max_seqlen: 512, expected an integer from 1024 to 2147483647");
  CHECK(message_of(calibration(R"("chunk_size": 0)")) ==
        kCalibration + ".chunk_size: 0, expected an integer from 1 to 2147483647, or -1 (the whole prompt)");
  CHECK(message_of(calibration(R"("chunk_size": 1000)")) ==
        kCalibration + ".chunk_size: 1000, expected -1 or a multiple of br = 128");
  CHECK(message_of(calibration(R"("threshold_trials": [0, 0.5])")) ==
        kCalibration + ".threshold_trials: [0.0,0.5], expected an ascending list of numbers between 0 and 1");
  CHECK(message_of(calibration(R"("target_sparse_ratio": {"prefill": 1.0})")) ==
        kCalibration + ".target_sparse_ratio.prefill: 1.0, expected a share from 0 on and less than 1");
}

TEST_CASE("validate() finds in a struct of skip-softmax what parsing finds in JSON") {
  const auto problems = validate(SkipSoftmaxConfig{.threshold = PhaseThresholds{.prefill = {0.5, 0.1}}, .bc = 12});
  REQUIRE(problems.size() == 2);
  CHECK(problems[0].field == "thresholds");
  CHECK(problems[0].path == ".prefill");
  CHECK(problems[1].field == "bc");
  CHECK(problems[1].value == "12");
  CHECK(validate(FlashSkipSoftmaxConfig{}).empty());
  CHECK(validate(CalibrationConfig{}).empty());
  CHECK(validate(CalibrationConfig{.samples = 0}).size() == 1);
}
