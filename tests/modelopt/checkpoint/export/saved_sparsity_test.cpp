#include <modelopt/checkpoint/export/saved_sparsity.h>

#include <ATen/ops/equal.h>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>

#include <cmath>
#include <string>
#include <vector>

#include <modelopt/util/version.h>

#include "modelopt/checkpoint/export/exported_model.h"
#include "modelopt/checkpoint/test_files.h"

namespace modelopt::checkpoint {
namespace {

using Json = nlohmann::ordered_json;
using Catch::Matchers::Message;
using test::kAllModules;
using test::sparse_model;
using test::TemporaryDirectory;

constexpr const char* kFirst = "model.layers.0.self_attn";
constexpr const char* kSecond = "model.layers.1.self_attn";
constexpr const char* kOneModule =
    R"({"*layers.1.*": {"method": "sparse_softmax", "num_sink_tokens": 4}, "default": {"enable": false}})";

// A directory with nothing but a config.json that carries `sparsity`.
void write_config(const TemporaryDirectory& directory, const Json& sparsity) {
  Json config = test::read_json(test::kTinyModels / "llama/config.json");
  config["sparse_attention_config"] = sparsity;
  directory.write("config.json", config.dump());
}

std::shared_ptr<models::CausalLM> llama() { return load_model(test::kTinyModels / "llama").model; }

RestoredSparsity restored(const Json& sparsity, models::CausalLM& model,
                          const std::vector<std::string>& overrides = {}) {
  const TemporaryDirectory directory;
  write_config(directory, sparsity);
  return restore_saved_sparsity(model, directory.path(), {}, overrides).value();
}

RestoredSparsity restored(const Json& sparsity) { return restored(sparsity, *llama()); }

RestoredSparsity restored_file(const std::string& name) {
  return restored(test::read_json(MODELOPT_TEST_DATA "/sparse_attention_config/" + name));
}

// The DataError of restoring what such a config.json says, without the directory.
std::string error_of(const Json& sparsity) {
  const TemporaryDirectory directory;
  write_config(directory, sparsity);
  const auto model = llama();
  return test::data_error(directory.path(), [&] { (void)restore_saved_sparsity(*model, directory.path()); });
}

Json sparse_group(const Json& more = Json::object()) {
  Json result = {{"algorithm", "sparse_softmax"}, {"targets", {"LlamaAttention"}}, {"sparsity_n", 2}};
  result.update(more);
  return result;
}

Json groups_of(const test::SparseModel& sparse) {
  return to_sparse_attention_config(sparse.config, sparse.report)["config_groups"];
}

config::SkipSoftmaxConfig skip_softmax(const ModuleReport& module) {
  REQUIRE(module.method == "skip_softmax");
  return *config::skip_softmax_parameters(*module.config);
}

TEST_CASE("one group for one parameter set, in upstream's newest form") {
  const auto sparse = sparse_model("llama", kAllModules);
  const Json written = to_sparse_attention_config(sparse.config, sparse.report);
  CHECK(written["config_groups"].dump() ==
        R"({"group_0":{"algorithm":"sparse_softmax","targets":["LlamaAttention"],"ignore":[],"sparsity_n":1,)"
        R"("sparsity_m":4,"dense_sink_tokens":0,"dense_recent_tokens":8}})");
  CHECK(written["producer"] == Json{{"name", "modelopt"}, {"version", std::string(version())}});
}

TEST_CASE("a calibration is written in its exponential form, with targets and steps") {
  CHECK(groups_of(sparse_model("llama", test::kCalibrated)).dump() ==
        R"({"group_0":{"algorithm":"skip_softmax","targets":["LlamaAttention"],"ignore":[],"initial_disabled_steps":3,)"
        R"_("threshold_scale_factor":{"formula":"a * exp(b * target_sparsity)","prefill":{"a":30.0,"b":2.5},)_"
        R"("decode":{"a":10.0,"b":1.5}},"target_sparsity":{"prefill":0.4,"decode":0.5}}})");
}

TEST_CASE("a method with both parts gives a group of each algorithm, which name the dense modules under ignore") {
  const Json groups = groups_of(sparse_model("llama", test::kCombination));
  REQUIRE(groups.size() == 2);
  CHECK(groups["group_0"]["algorithm"] == "skip_softmax");
  CHECK(groups["group_1"]["algorithm"] == "sparse_softmax");
  CHECK(groups["group_1"]["dense_recent_tokens"] == 8);
  for (const char* name : {"group_0", "group_1"}) CHECK(groups[name]["ignore"] == Json{kFirst});
}

TEST_CASE("each parameter set has its group") {
  const Json groups = groups_of(sparse_model("llama", R"({"*attn*": {"method": "sparse_softmax"},
      "*layers.1.*": {"method": "sparse_softmax", "sparsity_n": 1}})"));
  REQUIRE(groups.size() == 2);
  CHECK(groups["group_0"]["ignore"] == Json{kSecond});
  CHECK(groups["group_1"]["ignore"] == Json{kFirst});
  CHECK(groups["group_1"]["sparsity_n"] == 1);
}

TEST_CASE("sparsity that is off, and a fixed threshold, have no group") {
  CHECK(groups_of(sparse_model("llama", R"({"*attn*": {"method": "sparse_softmax", "sparsity_n": 0}})")).empty());
  CHECK(groups_of(sparse_model("llama", test::kFixedThreshold)).empty());
}

TEST_CASE("the exact state comes back with bit-identical logits") {
  for (const char* rules :
       {kAllModules, kOneModule, test::kFixedThreshold, test::kCalibrated, test::kCombination, test::kSeveralSets}) {
    CAPTURE(rules);
    const auto sparse = sparse_model("llama", rules);
    const Json written = to_sparse_attention_config(sparse.config, sparse.report);
    const auto model = llama();
    const at::Tensor dense = test::logits(*model);
    const RestoredSparsity again = restored(written, *model);
    CHECK(again.config == sparse.config);
    REQUIRE(again.report.modules.size() == 2);
    for (std::size_t i = 0; i < 2; ++i) CHECK(again.report.modules[i].config == sparse.report.modules[i].config);
    CHECK(at::equal(test::logits(*model), test::logits(*sparse.model)));
    CHECK_FALSE(at::equal(test::logits(*model), dense));
  }
}

TEST_CASE("a calibration block is written without the paths of the machine that calibrated") {
  auto sparse = sparse_model("llama", test::kCalibrated);
  sparse.config.calibration =
      config::CalibrationConfig{.samples = 7, .cache_dir = "/somewhere/cache", .data_dir = "/somewhere/texts"};
  const Json written = to_sparse_attention_config(sparse.config, sparse.report);
  CHECK(written.dump().find("somewhere") == std::string::npos);
  CHECK(restored(written).config.calibration == config::CalibrationConfig{.samples = 7});
}

TEST_CASE("groups that say something else than the exact state are refused, and so are unknown keys") {
  const auto sparse = sparse_model("llama", kAllModules);
  const Json written = to_sparse_attention_config(sparse.config, sparse.report);
  const std::string disagree =
      "config.json: $.sparse_attention_config: config_groups say something else than modelopt_cpp, expected both as "
      "they were written; without modelopt_cpp the groups hold";
  Json edited = written;
  edited["config_groups"]["group_0"]["sparsity_n"] = 3;
  CHECK(error_of(edited) == disagree);
  edited["config_groups"] = {{"group_0", {{"algorithm", "rocket"}}}};
  CHECK(error_of(edited) == disagree);
  edited = written;
  edited["surprise"] = 1;
  CHECK(error_of(edited) == "config.json: $.sparse_attention_config: the key surprise is not understood");
  edited = written;
  edited.erase("config_groups");  // nothing that could disagree
  const auto model = llama();
  CHECK(restored(edited, *model).config == sparse.config);
}

TEST_CASE("a config.json whose keys a tool has sorted says the same") {
  for (const char* rules : {test::kCalibrated, test::kCombination, test::kSeveralSets}) {
    CAPTURE(rules);
    const auto sparse = sparse_model("llama", rules);
    const Json written = to_sparse_attention_config(sparse.config, sparse.report);
    const Json sorted = nlohmann::json(written);
    REQUIRE(sorted.dump() != written.dump());
    const auto model = llama();
    (void)restored(sorted, *model);
    CHECK(at::equal(test::logits(*model), test::logits(*sparse.model)));
  }
}

TEST_CASE("what cannot be restored leaves the model as it was") {
  const auto sparse = sparse_model("llama", kAllModules);
  const at::Tensor before = test::logits(*sparse.model);
  Json written =
      to_sparse_attention_config(sparse_model("llama", kOneModule).config, sparse_model("llama", kOneModule).report);
  CHECK_THROWS_AS(restored(written, *sparse.model, {"sparsity_n=9"}), ConfigError);
  CHECK(at::equal(test::logits(*sparse.model), before));
  written["config_groups"]["group_0"]["sparsity_n"] = 3;
  CHECK_THROWS_AS(restored(written, *sparse.model), DataError);
  CHECK(at::equal(test::logits(*sparse.model), before));
}

TEST_CASE("overrides change what a checkpoint carries, by its state or by its groups") {
  const auto sparse = sparse_model("llama", kAllModules);
  Json written = to_sparse_attention_config(sparse.config, sparse.report);
  for (int i = 0; i < 2; ++i) {
    const auto changed = restored(written, *sparse.model, {"sparsity_n=3"});
    CHECK(std::get<config::SparseSoftmaxConfig>(*changed.report.modules[0].config).sparsity_n == 3);
    CHECK_THROWS_AS(restored(written, *sparse.model, {"sparsity_n=4"}), ConfigError);
    written.erase(std::string(kSavedStateKey));
  }
}

TEST_CASE("groups of this project without the exact state give the same modules") {
  for (const char* rules : {kAllModules, kOneModule, R"({"*attn*": {"method": "sparse_softmax"},
                                     "*layers.1.*": {"method": "sparse_softmax", "sparsity_n": 1}})"}) {
    CAPTURE(rules);
    const auto sparse = sparse_model("llama", rules);
    Json written = to_sparse_attention_config(sparse.config, sparse.report);
    written.erase(std::string(kSavedStateKey));
    const RestoredSparsity result = restored(written);
    for (std::size_t i = 0; i < 2; ++i) CHECK(result.report.modules[i].config == sparse.report.modules[i].config);
  }
}

TEST_CASE("newest generation: a module of both groups has both parts, the ignored one N:M alone") {
  const RestoredSparsity result = restored_file("newest.json");
  CHECK(std::get<config::SparseSoftmaxConfig>(*result.report.modules[0].config) ==
        config::SparseSoftmaxConfig{.num_sink_tokens = 4, .dense_window_size = 32});
  const auto method = skip_softmax(result.report.modules[1]);
  CHECK(method.target_sparsity == config::PhaseTargets{.prefill = 0.4, .decode = 0.6});
  CHECK(method.initial_disabled_steps == 5);
  CHECK(method.sparsity_n == 2);
  CHECK(method.num_sink_tokens == 4);
  CHECK(method.dense_window_size == 32);
  const auto& calibration = std::get<config::ThresholdCalibration>(method.threshold);
  CHECK(calibration.prefill->threshold(0.4, 1024) == 7.93 * std::exp(8.61 * 0.4) / 1024);
  CHECK(calibration.decode->threshold(0.6, 1024) == 0.12 * std::exp(9.85 * 0.6) / 1024);
}

TEST_CASE("older generations apply to the modules they mean") {
  const RestoredSparsity all = restored_file("top_level_factor.json");
  REQUIRE(all.config.rules.size() == 1);
  CHECK(all.config.rules[0].pattern == "LlamaAttention");
  const auto everywhere = skip_softmax(all.report.modules[1]);
  CHECK(everywhere.target_sparsity == config::PhaseTargets{.prefill = 0.5, .decode = 0.5});
  CHECK(everywhere.sparsity_n == 0);
  const auto prefill_only = skip_softmax(restored_file("top_level_sparse_softmax.json").report.modules[0]);
  CHECK(prefill_only.target_sparsity == config::PhaseTargets{.prefill = 0.3, .decode = std::nullopt});
  CHECK_FALSE(std::get<config::ThresholdCalibration>(prefill_only.threshold).decode.has_value());
  CHECK(prefill_only.sparsity_m == 8);
  for (const char* name : {"implied_sparse_softmax.json", "flat.json"}) {
    const RestoredSparsity result = restored_file(name);
    CHECK(result.report.modules[0].method == "skip_softmax");
    CHECK_FALSE(result.report.modules[1].is_sparse());
  }
}

TEST_CASE("an entry of ignore may be a pattern of names") {
  const RestoredSparsity result = restored({{"config_groups", {{"group_0", sparse_group({{"ignore", {"*.0.*"}}})}}}});
  CHECK_FALSE(result.report.modules[0].is_sparse());
  CHECK(result.report.modules[1].is_sparse());
}

TEST_CASE("a checkpoint without sparsity carries none") {
  const auto model = llama();
  CHECK_FALSE(carries_sparsity(test::kTinyModels / "llama"));
  CHECK_FALSE(restore_saved_sparsity(*model, test::kTinyModels / "llama").has_value());
}

TEST_CASE("groups for other modules than the model's are an error that names them") {
  const auto error = [](const Json& groups) { return error_of({{"config_groups", groups}}); };
  const std::string at = "config.json: $.sparse_attention_config.config_groups";
  CHECK(error({{"group_0", sparse_group({{"targets", {"GPT2Attention"}}})}}) ==
        at + ".group_0.targets: the model has no attention module of class GPT2Attention");
  CHECK(error({{"group_0", sparse_group({{"ignore", {"lm_head"}}})}}) ==
        at + ".group_0.ignore: lm_head is no attention module of this model");
  CHECK(error({{"group_0", sparse_group()}, {"group_1", sparse_group({{"sparsity_n", 1}})}}) ==
        at + ".group_1: model.layers.0.self_attn belongs to an earlier sparse_softmax group already");
}

TEST_CASE("the state inside config.json says where it is wrong") {
  const auto sparse = sparse_model("llama", kAllModules);
  Json written = to_sparse_attention_config(sparse.config, sparse.report);
  written[std::string(kSavedStateKey)]["extra"] = 1;
  CHECK(error_of(written) == "config.json: $.sparse_attention_config.modelopt_cpp: the key extra is not understood");
}

}  // namespace
}  // namespace modelopt::checkpoint
