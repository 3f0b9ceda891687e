#include <modelopt/sparsify/report.h>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <string>

using modelopt::ModuleReport;
using modelopt::SparsifyReport;

namespace {

SparsifyReport example() {
  const auto sparse = [](const char* name) {
    return ModuleReport{name, "LlamaAttention", "*attn*", "sparse_softmax", R"({"sparsity_n":2,"backend":"fused"})",
                        "cpu"};
  };
  return {.modules = {{"layers.0.self_attn", "LlamaAttention", "layers.0.*", "", "{}", "cpu"},
                      sparse("layers.1.self_attn"),
                      sparse("layers.2.self_attn")},
          .unmatched_patterns = {"*mlp*"}};
}

}  // namespace

TEST_CASE("the table has an entry for each run of modules that got the same") {
  CHECK(modelopt::to_table(example()) ==
        "module                                       rule        method          backend\n"
        "layers.0.self_attn                           layers.0.*  dense           cpu\n"
        "  LlamaAttention\n"
        "layers.1.self_attn … layers.2.self_attn (2)  *attn*      sparse_softmax  cpu\n"
        "  LlamaAttention  sparsity_n=2 backend=fused\n");
}

TEST_CASE("the JSON form has every module") {
  const auto json = modelopt::to_json(example());
  CHECK(json["modules"].size() == 3);
  CHECK(
      json["modules"][0].dump() ==
      R"({"name":"layers.0.self_attn","class":"LlamaAttention","rule":"layers.0.*","method":null,"parameters":{},"backend":"cpu"})");
  CHECK(
      json["modules"][2].dump() ==
      R"({"name":"layers.2.self_attn","class":"LlamaAttention","rule":"*attn*","method":"sparse_softmax","parameters":{"sparsity_n":2,"backend":"fused"},"backend":"cpu"})");
  CHECK(json["unmatched_patterns"].dump() == R"(["*mlp*"])");
}

TEST_CASE("the table shows of a calibration which form decides") {
  SparsifyReport report = example();
  report.modules.resize(2);
  report.modules[1].parameters =
      R"({"threshold_calibration":{"br":128,"prefill":{"form":"table","table":{}},"decode":{"form":"exponential"}}})";
  CHECK(modelopt::to_table(report).ends_with(
      "  LlamaAttention  threshold_calibration=prefill:table,decode:exponential\n"));
}

TEST_CASE("the summary says in one line what runs") {
  using namespace modelopt::config;
  const PhaseCalibration table{.form = CalibrationForm::kTable, .exponential = {}, .table = {}};
  const PhaseCalibration exponential{.form = CalibrationForm::kExponential, .exponential = {}, .table = {}};
  const ThresholdCalibration calibration{.prefill = table, .decode = exponential};
  SparsifyReport report;
  CHECK(modelopt::summary(report) == "dense");
  const auto add = [&](const char* name, const MethodConfig& method) {
    report.modules.push_back({.name = name, .method = name, .config = method});
    return modelopt::summary(report);
  };
  CHECK(add("sparse_softmax", SparseSoftmaxConfig{}) == "sparse_softmax (2:4)");
  CHECK(add("sparse_softmax", SparseSoftmaxConfig{.dense_window_size = 8}) == "sparse_softmax (2:4)");
  const std::string first = "sparse_softmax (2:4) on 2, skip_softmax (threshold 0.1) on 1";
  CHECK(add("skip_softmax", SkipSoftmaxConfig{}) == first);
  const std::string second =
      first + ", flash_skip_softmax (threshold 0.001 in prefill, threshold 0.0001 in decode) on 1";
  CHECK(add("flash_skip_softmax", FlashSkipSoftmaxConfig{}) == second);
  CHECK(add("skip_softmax",
            SkipSoftmaxConfig{
                .threshold = calibration, .target_sparsity = {.prefill = 0.4, .decode = 0.5}, .sparsity_n = 2}) ==
        second +
            ", skip_softmax (0.4 of blocks in prefill by table, 0.5 of blocks in decode by exponential, 2:4) on 1");
}
