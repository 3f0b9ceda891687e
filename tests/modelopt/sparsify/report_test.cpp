#include <modelopt/sparsify/report.h>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

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
