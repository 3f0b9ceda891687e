#include <modelopt/sparsify/sparsity_state.h>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <functional>

#include <modelopt/config/parse.h>
#include <modelopt/util/file.h>
#include <modelopt/util/version.h>

#include "modelopt/checkpoint/test_files.h"
#include "stub_attention.h"

namespace modelopt {
namespace {

using Json = nlohmann::ordered_json;
using test::StubAttention;
using test::StubModel;
using test::TemporaryDirectory;

constexpr const char* kRules = R"({"sparse_cfg": {
    "*": {"method": "sparse_softmax", "sparsity_n": 1},
    "layers_1*": {"method": "sparse_softmax", "sparsity_n": 3},
    "layers_2*": {"enable": false}}})";

config::SparseAttentionConfig rules() { return config::parse_config(kRules, "test"); }

Json state_of(int layers) {
  StubModel model(layers);
  return sparsity_state(rules(), sparsify(model, rules()));
}

template <typename ErrorType = DataError>
std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const ErrorType& error) {
    return error.what();
  }
  return "no such error";
}

// The error of restoring a changed state.
std::string error_after(const std::function<void(Json&)>& edit) {
  Json state = state_of(4);
  edit(state);
  StubModel model(4);
  return error_of([&] { restore_sparsity_state(model, state, "state.json: $"); });
}

TEST_CASE("a state holds the configuration as given, each method once, and what each module got") {
  const Json state = state_of(4);
  CHECK(state["format"] == 1);
  CHECK(state["version"] == std::string(version()));
  CHECK(state["config"] == config::to_json(rules()));
  REQUIRE(state["methods"].size() == 2);
  CHECK(state["methods"][1].dump() ==
        R"({"method":"sparse_softmax","parameters":{"sparsity_n":3,"sparsity_m":4,"num_sink_tokens":0,)"
        R"("dense_window_size":64,"backend":"fused"}})");
  CHECK(state["modules"].dump() == R"({"layers_0.attn":{"class":"StubAttention","method":0},)"
                                   R"("layers_1.attn":{"class":"StubAttention","method":1},)"
                                   R"("layers_2.attn":{"class":"StubAttention","method":null},)"
                                   R"("layers_3.attn":{"class":"StubAttention","method":0}})");
}

TEST_CASE("a state goes through a file, and its keys may come in any order") {
  const TemporaryDirectory directory;
  StubModel model(3);
  const auto report = sparsify(model, rules());
  save_sparsity_state(directory / "state.json", rules(), report);
  const auto sorted = nlohmann::json::parse(read_file(directory / "state.json"));
  directory.write("sorted.json", sorted.dump());
  for (const char* name : {"state.json", "sorted.json"}) {
    StubModel again(3);
    const RestoredSparsity restored = restore_sparsity_state(again, directory / name);
    CHECK(restored.config.rules.size() == 3);
    for (std::size_t i = 0; i < 3; ++i) CHECK(restored.report.modules[i].config == report.modules[i].config);
    CHECK(again.attention[1]->attention_slot().method->parameters_json() == report.modules[1].parameters);
  }
}

TEST_CASE("a state that was made with unmatched patterns comes back with them") {
  StubModel model(1);
  const auto report = sparsify(model, rules(), {.allow_unmatched = true});
  const Json state = sparsity_state(rules(), report);
  CHECK(restore_sparsity_state(model, state, "state").report.unmatched_patterns == report.unmatched_patterns);
}

TEST_CASE("overrides change a state") {
  StubModel model(4);
  const auto changed = restore_sparsity_state(model, state_of(4), "state", {}, {"sparsity_n=2"});
  CHECK(std::get<config::SparseSoftmaxConfig>(*changed.report.modules[1].config).sparsity_n == 2);
  CHECK(error_of<ConfigError>([&] {
          restore_sparsity_state(model, state_of(4), "state", {}, {"sparsity_n=4"});
        }).starts_with("state with sparsity_n=4: "));
}

TEST_CASE("a state of a newer version is an error that says so") {
  const std::string here = str(", expected at most 1, which is what ", version(), " reads");
  CHECK(error_after([](Json& state) {
          state["format"] = 2;
          state["version"] = "9.1.0";
          state["more"] = true;
        }) == R"(state.json: $.format: 2, written by a newer version ("9.1.0"))" + here);
  CHECK(error_after([](Json& state) {
          state = {{"format", 7}};
        }) == "state.json: $.format: 7, written by a newer version" + here);
}

TEST_CASE("a state of other modules is an error that names them") {
  const std::string at = "state.json: $.modules";
  CHECK(error_after([](Json& state) { state["modules"].erase("layers_3.attn"); }) ==
        at + ": layers_3.attn, an attention module of this model, is missing");
  CHECK(error_after([](Json& state) { state["modules"]["layers_4.attn"] = state["modules"]["layers_0.attn"]; }) ==
        at + R"(["layers_4.attn"]: this model has no such attention module)");
  CHECK(error_after([](Json& state) { state["modules"]["layers_0.attn"]["class"] = "GPT2Attention"; }) ==
        at + R"(["layers_0.attn"].class: GPT2Attention, expected StubAttention, the class of this model's module)");
}

TEST_CASE("a state that its configuration does not give is an error that names the first difference") {
  const std::string at = R"(state.json: $.modules["layers_0.attn"])";
  CHECK(error_after([](Json& state) { state["methods"][0]["parameters"]["sparsity_n"] = 2; }) ==
        at + ": sparsity_n was saved as 2, but the configuration gives 1");
  CHECK(error_after([](Json& state) { state["modules"]["layers_0.attn"]["method"] = nullptr; }) ==
        at + ": was saved as dense, but the configuration gives sparse_softmax");
  CHECK(error_after([](Json& state) { state["modules"]["layers_0.attn"]["method"] = 2; }) ==
        at + ".method: 2, expected null or an index of the 2 methods");
}

TEST_CASE("a malformed state says where it is wrong") {
  CHECK(error_after([](Json& state) { state = Json::array(); }) == "state.json: $: is array, expected an object");
  CHECK(error_after([](Json& state) { state.erase("format"); }) == "state.json: $.format: missing, expected 1");
  CHECK(error_after([](Json& state) { state["format"] = "1"; }) == R"(state.json: $.format: "1", expected 1)");
  CHECK(error_after([](Json& state) { state["more"] = 1; }) == "state.json: $: the key more is not understood");
  CHECK(error_after([](Json& state) { state.erase("config"); }) == "state.json: $: the key config is missing");
  CHECK(error_after([](Json& state) { state["modules"] = 3; }) == "state.json: $.modules: is number, expected object");
  CHECK(error_after([](Json& state) { state["methods"][0] = 5; }) ==
        "state.json: $.methods[0]: is number, expected an object");
  CHECK(error_after([](Json& state) { state["methods"][0]["method"] = 7; }) ==
        "state.json: $.methods[0].method: is number, expected string");
  CHECK(error_after([](Json& state) { state["methods"][0]["parameters"] = "x"; }) ==
        "state.json: $.methods[0].parameters: is string, expected object");
  CHECK(error_after([](Json& state) { state["methods"][0]["more"] = 1; }) ==
        "state.json: $.methods[0]: the key more is not understood");
  CHECK(
      error_after([](Json& state) { state["config"]["sparse_cfg"]["*"]["sparsity_n"] = 9; }) ==
      R"(state.json: $: $.sparse_cfg["*"].sparsity_n: 9, expected an integer from 0 to 3 (less than sparsity_m = 4))");
}

TEST_CASE("a state that is refused leaves what was there") {
  StubModel model(4);
  sparsify(model, presets::SPARSE_SOFTMAX_1_4, {.collect_stats = true});
  const auto method = model.attention[0]->attention_slot().method;
  Json state = state_of(4);
  state["methods"][0]["parameters"]["sparsity_n"] = 2;
  CHECK_THROWS_AS(restore_sparsity_state(model, state, "state"), DataError);
  CHECK(model.attention[0]->attention_slot().method == method);
  CHECK(model.attention[0]->attention_slot().collect_stats);
}

TEST_CASE("a file that is missing or no JSON is named") {
  const TemporaryDirectory directory;
  directory.write("state.json", "{");
  StubModel model(1);
  CHECK(test::data_error(directory.path(), [&] {
          restore_sparsity_state(model, directory / "state.json");
        }).starts_with("state.json: line 1, column 2"));
  CHECK(test::data_error(directory.path(), [&] {
          restore_sparsity_state(model, directory / "none.json");
        }).starts_with("none.json: "));
}

}  // namespace
}  // namespace modelopt
