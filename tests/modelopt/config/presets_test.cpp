#include <modelopt/config/presets.h>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <set>

#include <modelopt/config/parse.h>
#include <modelopt/util/file.h>

using namespace modelopt;
using namespace modelopt::config;

namespace {

template <typename Config = SparseSoftmaxConfig>
Config parameters(const SparseAttentionConfig& config) {
  REQUIRE(config.rules.size() == 1);
  REQUIRE(config.rules[0].pattern == "*attn*");
  REQUIRE(config.rules[0].rule.enable);
  REQUIRE_FALSE(config.default_rule.enable);
  return std::get<Config>(config.rules[0].rule.method.value());
}

}  // namespace

TEST_CASE("the presets are what their names say") {
  CHECK(parameters(presets::SPARSE_SOFTMAX_DEFAULT) == SparseSoftmaxConfig{2, 4, 0, 64, MethodBackend::kFused});
  CHECK(parameters(presets::SPARSE_SOFTMAX_1_4) == SparseSoftmaxConfig{1, 4, 0, 64, MethodBackend::kFused});
  CHECK(parameters(presets::SPARSE_SOFTMAX_3_4) == SparseSoftmaxConfig{3, 4, 0, 64, MethodBackend::kFused});
  CHECK(parameters(presets::SPARSE_SOFTMAX_4_8) == SparseSoftmaxConfig{4, 8, 0, 64, MethodBackend::kFused});
  CHECK(parameters(presets::SPARSE_SOFTMAX_SINK64_WINDOW256) ==
        SparseSoftmaxConfig{2, 4, 64, 256, MethodBackend::kFused});
  CHECK(parameters(presets::SPARSE_SOFTMAX_SINK64_WINDOW1024) ==
        SparseSoftmaxConfig{2, 4, 64, 1024, MethodBackend::kFused});
}

TEST_CASE("the skip-softmax presets have upstream's numbers") {
  FlashSkipSoftmaxConfig flash;
  flash.parameters.collect_stats = true;
  CHECK(flash.parameters.threshold == SkipThreshold(PhaseThresholds{.prefill = {1e-3}, .decode = {1e-4}}));
  CHECK(parameters<FlashSkipSoftmaxConfig>(presets::SKIP_SOFTMAX_DEFAULT) == flash);
  CHECK_FALSE(presets::SKIP_SOFTMAX_DEFAULT.config().calibration);
  CHECK(parameters<SkipSoftmaxConfig>(presets::SKIP_SOFTMAX_TRITON_DEFAULT) == SkipSoftmaxConfig{.threshold = 0.1});

  const CalibrationConfig chunked{.samples = 64, .max_seqlen = 16384, .chunk_size = 4096};
  CHECK(chunked.target_sparse_ratio == PhaseTargets{.prefill = 0.5, .decode = 0.5});
  CHECK(parameters<FlashSkipSoftmaxConfig>(presets::SKIP_SOFTMAX_CALIB) == flash);
  CHECK(presets::SKIP_SOFTMAX_CALIB.config().calibration == chunked);

  FlashSkipSoftmaxConfig combined = flash;
  combined.parameters.sparsity_n = 2;
  combined.parameters.export_sparse_softmax = true;
  CHECK(parameters<FlashSkipSoftmaxConfig>(presets::SKIP_SOFTMAX_CALIB_SPARSE24) == combined);
  CHECK(presets::SKIP_SOFTMAX_CALIB_SPARSE24.config().calibration == chunked);

  CHECK(parameters<SkipSoftmaxConfig>(presets::SKIP_SOFTMAX_TRITON_CALIB) == SkipSoftmaxConfig{});
  CHECK(presets::SKIP_SOFTMAX_TRITON_CALIB.config().calibration ==
        CalibrationConfig{.samples = 64, .max_seqlen = 16384, .chunk_size = -1});
}

TEST_CASE("the presets are the files of configs/, word for word") {
  std::set<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(MODELOPT_CONFIGS))
    if (entry.path().extension() == ".json" && entry.path().stem() != "schema") files.insert(entry.path().stem());
  std::set<std::string> names;
  for (const presets::Preset& preset : presets::all()) {
    names.emplace(preset.name);
    CHECK(preset.json == read_file(std::filesystem::path(MODELOPT_CONFIGS) / (std::string(preset.name) + ".json")));
  }
  CHECK(names == files);
}

TEST_CASE("every preset states its purpose and survives a round trip") {
  for (const presets::Preset& preset : presets::all()) {
    CAPTURE(preset.name);
    const SparseAttentionConfig config = preset;
    CHECK(config.description.ends_with("."));
    CHECK(parse_config(to_json(config).dump(), "again") == config);
  }
}

TEST_CASE("presets are found by name") {
  REQUIRE(presets::find("SPARSE_SOFTMAX_4_8") != nullptr);
  CHECK(presets::find("SPARSE_SOFTMAX_4_8")->json == presets::SPARSE_SOFTMAX_4_8.json);
  CHECK(presets::find("sparse_softmax_4_8") == nullptr);
  CHECK(load_config("SPARSE_SOFTMAX_1_4", {"sparsity_n=2"}).rules == presets::SPARSE_SOFTMAX_DEFAULT.config().rules);
  CHECK(load_config(std::string(MODELOPT_CONFIGS) + "/SPARSE_SOFTMAX_1_4.json") ==
        presets::SPARSE_SOFTMAX_1_4.config());
}

TEST_CASE("what is neither a preset nor a file is an error that lists the presets") {
  try {
    (void)load_config("SPARSE_DEFAULT");
    FAIL("no error");
  } catch (const ConfigError& error) {
    CHECK(std::string(error.what()) ==
          "configuration SPARSE_DEFAULT: no such file or preset, expected a file or one of " + presets::names());
  }
}
