#include <modelopt/checkpoint/export/saved_sparsity.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>

#include <functional>
#include <string>
#include <vector>

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

Json upstream(const Json& groups) { return {{"config_groups", groups}, {"producer", {{"name", "modelopt"}}}}; }

Json group(const Json& more = Json::object()) {
  Json result = {{"algorithm", "sparse_softmax"}, {"targets", {"LlamaAttention"}}, {"sparsity_n", 2}, {"sparsity_m", 4},
                 {"dense_sink_tokens", 8},        {"dense_recent_tokens", 32}};
  result.update(more);
  return result;
}

// The DataError of reading and restoring what such a config.json says, without the directory.
std::string error_of(const Json& sparsity) {
  const TemporaryDirectory directory;
  write_config(directory, sparsity);
  const auto model = load_model(test::kTinyModels / "llama").model;
  return test::data_error(directory.path(),
                          [&] { restore_sparsity(*model, read_saved_sparsity(directory.path(), *model).value()); });
}

RestoredSparsity restored(const Json& sparsity) {
  const TemporaryDirectory directory;
  write_config(directory, sparsity);
  const auto model = load_model(test::kTinyModels / "llama").model;
  return restore_sparsity(*model, read_saved_sparsity(directory.path(), *model).value());
}

TEST_CASE("one group for one parameter set, in upstream's newest form") {
  const auto sparse = sparse_model("llama", kAllModules);
  const Json written = to_sparse_attention_config(sparse.config, sparse.report);
  CHECK(written["config_groups"].dump() ==
        R"({"group_0":{"algorithm":"sparse_softmax","targets":["LlamaAttention"],"sparsity_n":1,"sparsity_m":4,)"
        R"("dense_sink_tokens":0,"dense_recent_tokens":8,"ignore":[]}})");
  CHECK(written["producer"]["name"] == "modelopt");
  CHECK(upstream_differences(sparse.report).empty());
}

TEST_CASE("dense modules are named under ignore, and upstream's reader would miss it") {
  const auto sparse = sparse_model("llama", kOneModule);
  const Json written = to_sparse_attention_config(sparse.config, sparse.report);
  CHECK(written["config_groups"]["group_0"]["ignore"] == Json{kFirst});
  CHECK(upstream_differences(sparse.report) ==
        std::vector<std::string>{
            "Model-Optimizer's reader does not look at \"ignore\" in N:M groups: it would sparsify 1 modules "
            "too that are dense here"});
}

TEST_CASE("each parameter set has its group, and upstream's reader would take the first for all") {
  const auto sparse = sparse_model("llama", R"({"*attn*": {"method": "sparse_softmax"},
      "*layers.1.*": {"method": "sparse_softmax", "sparsity_n": 1}})");
  const Json groups = to_sparse_attention_config(sparse.config, sparse.report)["config_groups"];
  REQUIRE(groups.size() == 2);
  CHECK(groups["group_0"]["ignore"] == Json{kSecond});
  CHECK(groups["group_1"]["ignore"] == Json{kFirst});
  CHECK(groups["group_1"]["sparsity_n"] == 1);
  CHECK(upstream_differences(sparse.report) ==
        std::vector<std::string>{
            "Model-Optimizer's reader knows one N:M group: it would apply the first of 2 to all modules"});
}

TEST_CASE("sparsity that is off has no group") {
  const auto sparse = sparse_model("llama", R"({"*attn*": {"method": "sparse_softmax", "sparsity_n": 0}})");
  CHECK(to_sparse_attention_config(sparse.config, sparse.report)["config_groups"].empty());
  CHECK(upstream_differences(sparse.report).empty());
}

TEST_CASE("the exact state comes back, and is preferred to the groups") {
  const auto sparse = sparse_model("llama", kOneModule);
  Json written = to_sparse_attention_config(sparse.config, sparse.report);
  written["config_groups"]["group_0"]["sparsity_n"] = 3;
  const RestoredSparsity again = restored(written);
  CHECK(again.config == sparse.config);
  REQUIRE(again.report.modules.size() == 2);
  CHECK_FALSE(again.report.modules[0].is_sparse());
  CHECK(again.report.modules[1].parameters == sparse.report.modules[1].parameters);
}

TEST_CASE("overrides change what a checkpoint carries") {
  const TemporaryDirectory directory;
  const auto sparse = sparse_model("llama", kAllModules);
  write_config(directory, to_sparse_attention_config(sparse.config, sparse.report));
  const auto saved = read_saved_sparsity(directory.path(), *sparse.model).value();
  const auto changed = restore_sparsity(*sparse.model, saved, {}, {"sparsity_n=3"});
  CHECK(Json::parse(changed.report.modules[0].parameters)["sparsity_n"] == 3);
  CHECK_THROWS_AS(restore_sparsity(*sparse.model, saved, {}, {"sparsity_n=4"}), ConfigError);
}

TEST_CASE("groups of other software are translated for the modules they mean") {
  const RestoredSparsity result = restored(upstream({{"group_0", group({{"ignore", {kFirst}}})}}));
  REQUIRE(result.report.modules.size() == 2);
  CHECK_FALSE(result.report.modules[0].is_sparse());
  CHECK(result.report.modules[1].method == "sparse_softmax");
  const Json parameters = Json::parse(result.report.modules[1].parameters);
  CHECK(parameters["num_sink_tokens"] == 8);
  CHECK(parameters["dense_window_size"] == 32);
}

TEST_CASE("groups of this project without the exact state give the same modules") {
  const auto sparse = sparse_model("llama", R"({"*attn*": {"method": "sparse_softmax"},
      "*layers.1.*": {"method": "sparse_softmax", "sparsity_n": 1}})");
  Json written = to_sparse_attention_config(sparse.config, sparse.report);
  written.erase(std::string(kSavedStateKey));
  const RestoredSparsity result = restored(written);
  for (std::size_t i = 0; i < 2; ++i) CHECK(result.report.modules[i].parameters == sparse.report.modules[i].parameters);
}

TEST_CASE("a checkpoint without sparsity carries none") {
  const auto model = load_model(test::kTinyModels / "llama").model;
  CHECK_FALSE(carries_sparsity(test::kTinyModels / "llama"));
  CHECK_FALSE(read_saved_sparsity(test::kTinyModels / "llama", *model).has_value());
}

TEST_CASE("what cannot be honoured is an error that names it") {
  const std::string at = "config.json: $.sparse_attention_config";
  CHECK(error_of(Json::array()) == at + ": is array, expected an object");
  CHECK(error_of(Json::object()) == at + ": the key config_groups is missing");
  CHECK(error_of({{"config_groups", {}}, {"sparse_softmax", Json::object()}}) ==
        at + ": the key sparse_softmax is not understood");
  CHECK(error_of({{"config_groups", 3}}) == at + ".config_groups: is number, expected object");
  CHECK(error_of(upstream({{"group_0", 1}})) == at + ".config_groups.group_0: is number, expected an object");
  CHECK(
      error_of(upstream({{"group_0", {{"algorithm", "skip_softmax"}}}})) ==
      at +
          ".config_groups.group_0.algorithm: skip_softmax cannot be honoured by this version, expected sparse_softmax");
  CHECK(error_of(upstream({{"group_0", group({{"initial_disabled_steps", 3}})}})) ==
        at + ".config_groups.group_0: the key initial_disabled_steps is not understood");
  CHECK(error_of(upstream({{"group_0", group({{"targets", {"GPT2Attention"}}})}})) ==
        at + ".config_groups.group_0.targets: the model has no attention module of class GPT2Attention");
  CHECK(error_of(upstream({{"group_0", group({{"targets", {7}}})}})) ==
        at + ".config_groups.group_0.targets: 7, expected a string");
  CHECK(error_of(upstream({{"group_0", group({{"ignore", {"lm_head"}}})}})) ==
        at + ".config_groups.group_0.ignore: lm_head is no attention module of this model");
  CHECK(error_of(upstream({{"group_0", group()}, {"group_1", group({{"sparsity_n", 1}})}})) ==
        at + ".config_groups.group_1: model.layers.0.self_attn belongs to an earlier group already");
  CHECK(error_of(upstream({{"group_0", group({{"sparsity_n", 5}})}})).starts_with(at));
}

TEST_CASE("an exact state that does not fit is an error") {
  const auto sparse = sparse_model("llama", kAllModules);
  const std::string at = "config.json: $.sparse_attention_config.modelopt_cpp";
  const auto edited = [&](const std::function<void(Json&)>& edit) {
    Json written = to_sparse_attention_config(sparse.config, sparse.report);
    edit(written[std::string(kSavedStateKey)]);
    return error_of(written);
  };
  CHECK(edited([](Json& state) { state["format"] = 2; }) ==
        at + ".format: 2, expected 1, the one that this version reads");
  CHECK(edited([](Json& state) { state.erase("format"); }) ==
        at + ".format: null, expected 1, the one that this version reads");
  CHECK(edited([](Json& state) { state["extra"] = 1; }) == at + ": the key extra is not understood");
  CHECK(edited([](Json& state) { state.erase("config"); }) == at + ": the key config is missing");
  CHECK(edited([](Json& state) { state["modules"] = Json::array(); }) == at + ".modules: is array, expected object");
  CHECK(edited([](Json& state) { state["modules"].erase(kSecond); }) ==
        at + ".modules: the model's model.layers.1.self_attn is missing");
  CHECK(edited([](Json& state) { state["modules"]["model.layers.2.self_attn"] = nullptr; }) ==
        at + ".modules: model.layers.2.self_attn is no attention module of this model");
  CHECK(edited([](Json& state) {
          state["modules"][kSecond] = nullptr;
        }).starts_with(at + ".modules: model.layers.1.self_attn was saved as null, but its configuration gives {"));
  CHECK(edited([](Json& state) { state["config"]["sparse_cfg"]["*attn*"]["sparsity_n"] = 9; }).starts_with(at));
}

}  // namespace
}  // namespace modelopt::checkpoint
