// sparsify --export, and what other commands do with the directory.
#include <catch2/catch_test_macros.hpp>

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <modelopt/util/file.h>

#include "examples/cli/program.h"
#include "modelopt/checkpoint/test_files.h"

namespace modelopt::test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// A directory with ids and a place to export to.
class Exporting {
 public:
  Exporting() : ids_(write_json(directory_ / "ids.json", some_ids(100))) {}

  [[nodiscard]] std::string target() const { return (directory_ / "out").string(); }
  [[nodiscard]] std::string path(const std::string& name) const { return (directory_ / name).string(); }

  ProgramResult run(const std::vector<std::string>& more, const std::string& model = tiny_model()) const {
    std::vector<std::string> arguments = {"sparsify",         "--model", model,      "--token-ids", ids_,
                                          "--max-new-tokens", "2",       "--export", target()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_program(arguments);
  }

  // The bytes of a file of logits, and what was logged.
  std::pair<std::string, std::string> logits(const std::string& model,
                                             const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = {"logits", "--model", model, "--token-ids", ids_, "--out", path("logits")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const ProgramResult result = run_program(arguments);
    INFO(result.err);
    REQUIRE(result.exit_code == 0);
    return {read_file(path("logits")), result.err};
  }

 private:
  TemporaryDirectory directory_;
  std::string ids_;
};

TEST_CASE("an exported directory applies its sparsity again and says so") {
  const Exporting exporting;
  REQUIRE(exporting.run({"--config", "SPARSE_SOFTMAX_1_4"}).exit_code == 0);
  CHECK(read_file(exporting.target() + "/model.safetensors") == read_file(tiny_model() + "/model.safetensors"));

  const auto [sparse, said] = exporting.logits(exporting.target());
  CHECK(said.find(
            ": applying the sparse configuration it carries, on 2 of 2 attention modules: sparse_softmax (1:4)\n") !=
        std::string::npos);
  CHECK(sparse == exporting.logits(tiny_model(), {"--config", "SPARSE_SOFTMAX_1_4"}).first);

  const auto [dense, ignored] = exporting.logits(exporting.target(), {"--dense"});
  CHECK(ignored.find(": carries a sparse configuration, ignored (--dense)") != std::string::npos);
  CHECK(dense == exporting.logits(tiny_model()).first);
  CHECK(dense != sparse);

  const auto [other, replaced] = exporting.logits(exporting.target(), {"--config", "SPARSE_SOFTMAX_3_4"});
  CHECK(replaced.find(": carries a sparse configuration, replaced (--config)") != std::string::npos);
  CHECK(other == exporting.logits(tiny_model(), {"--config", "SPARSE_SOFTMAX_3_4"}).first);

  const auto changed = exporting.logits(exporting.target(), {"--set", "sparsity_n=2"}).first;
  CHECK(changed == exporting.logits(tiny_model(), {"--config", "SPARSE_SOFTMAX_1_4", "--set", "sparsity_n=2"}).first);
}

TEST_CASE("sparsify takes the configuration of an exported directory") {
  const Exporting exporting;
  REQUIRE(exporting.run({"--config", "SPARSE_SOFTMAX_1_4"}).exit_code == 0);
  const Json data = run_json(
      {"sparsify", "--model", exporting.target(), "--token-ids", exporting.path("ids.json"), "--max-new-tokens", "1"});
  CHECK(data["config"] == "checkpoint");
  CHECK(data["modules"][0]["parameters"]["sparsity_n"] == 1);
}

TEST_CASE("an existing directory is refused before the model is loaded") {
  const Exporting exporting;
  REQUIRE(exporting.run({"--config", "SPARSE_SOFTMAX_1_4"}).exit_code == 0);
  const ProgramResult again = exporting.run({"--config", "SPARSE_SOFTMAX_3_4"}, "/nonexistent");
  CHECK(again.exit_code == 2);
  CHECK(again.err ==
        "modelopt: error: " + exporting.target() + ": exists already, expected a new directory or --overwrite\n");
  REQUIRE(exporting.run({"--config", "SPARSE_SOFTMAX_3_4", "--overwrite"}).exit_code == 0);
  CHECK(Json::parse(read_file(exporting.target() +
                              "/config.json"))["sparse_attention_config"]["config_groups"]["group_0"]["sparsity_n"] ==
        3);
}

TEST_CASE("a failed run leaves no directory behind") {
  const Exporting exporting;
  const ProgramResult result = exporting.run({"--config", "SPARSE_SOFTMAX_1_4", "--prompt-tokens", "1"});
  CHECK(result.exit_code == 2);
  CHECK_FALSE(fs::exists(exporting.target()));
}

TEST_CASE("upstream's view is warned of where it differs") {
  const Exporting exporting;
  const std::string config = write_json(exporting.path("c.json"), Json::parse(R"({"sparse_cfg": {
      "*layers.1.self_attn": {"method": "sparse_softmax"}, "default": {"enable": false}}})"));
  const ProgramResult result = exporting.run({"--config", config});
  CHECK(result.exit_code == 0);
  CHECK(result.err.find("Model-Optimizer's reader does not look at \"ignore\"") != std::string::npos);
}

TEST_CASE("a checkpoint of other software is applied, announced and shown") {
  const Exporting exporting;
  REQUIRE(exporting.run({"--config", "SPARSE_SOFTMAX_1_4"}).exit_code == 0);
  const std::string file = exporting.target() + "/config.json";
  Json config = Json::parse(read_file(file));
  config["sparse_attention_config"] = Json::parse(read_file(MODELOPT_TEST_DATA "/sparse_attention_config/newest.json"));
  write_json(file, config);
  const auto [bytes, said] = exporting.logits(exporting.target());
  CHECK(said.find("on 2 of 2 attention modules: sparse_softmax (2:4) on 1, skip_softmax (0.4 of blocks in prefill by "
                  "exponential, 0.6 of blocks in decode by exponential, 2:4) on 1\n") != std::string::npos);
  CHECK(bytes != exporting.logits(exporting.target(), {"--dense"}).first);

  const Json data = run_json({"inspect", "--model", exporting.target()});
  CHECK(data["config"] == "checkpoint");
  CHECK(data["modules"][0]["method"] == "sparse_softmax");
  CHECK(data["modules"][1]["parameters"]["threshold_calibration"]["prefill"]["exponential"]["a"] == 7.93);
  const ProgramResult text = run_program({"inspect", "--model", exporting.target()});
  CHECK(text.out.find("\ncalibration of model.layers.1.self_attn and modules like it\n"
                      "phase    form         target     a     b  fitted for  R²  shares  tokens\n"
                      "-------  -----------  ------  ----  ----  ----------  --  ------  ------\n"
                      "prefill  exponential     0.4  7.93  8.61           -   -       -       -\n"
                      "decode   exponential     0.6  0.12  9.85           -   -       -       -\n") !=
        std::string::npos);
}

TEST_CASE("a checkpoint whose sparsity cannot be honoured runs dense or with another configuration only") {
  const Exporting exporting;
  REQUIRE(exporting.run({"--config", "SPARSE_SOFTMAX_1_4"}).exit_code == 0);
  const std::string file = exporting.target() + "/config.json";
  Json config = Json::parse(read_file(file));
  config["sparse_attention_config"] =
      Json::parse(R"({"config_groups": {"group_0": {"algorithm": "rocket", "targets": ["LlamaAttention"]}}})");
  write_json(file, config);
  const ProgramResult refused = run_program({"inspect", "--model", exporting.target()});
  CHECK(refused.exit_code == 3);
  CHECK(refused.err == "modelopt: error: " + file +
                           ": $.sparse_attention_config.config_groups.group_0.algorithm: \"rocket\", expected "
                           "skip_softmax or sparse_softmax, which are all that can be honoured\n");
  CHECK(run_program({"inspect", "--model", exporting.target(), "--dense"}).exit_code == 0);
  CHECK(run_program({"inspect", "--model", exporting.target(), "--config", "SPARSE_SOFTMAX_DEFAULT"}).exit_code == 0);
}

}  // namespace
}  // namespace modelopt::test
