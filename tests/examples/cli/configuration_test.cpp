// presets, validate, and configurations on the command line.
#include <catch2/catch_test_macros.hpp>

#include <string>
#include <vector>

#include <modelopt/util/file.h>

#include "examples/cli/program.h"
#include "modelopt/checkpoint/test_files.h"

namespace modelopt::test {
namespace {

using Json = nlohmann::ordered_json;

TEST_CASE("presets lists all with a sentence each") {
  const ProgramResult result = run_program({"presets"});
  CHECK(result.exit_code == 0);
  CHECK(result.err.empty());
  CHECK(result.out.find("SPARSE_SOFTMAX_DEFAULT\n    Keeps 2 of 4 keys") != std::string::npos);
  const Json data = run_json({"presets"});
  REQUIRE(data["presets"].size() >= 6);
  for (const auto& preset : data["presets"]) {
    CHECK(preset["description"].get<std::string>().ends_with("."));
    CHECK(preset["config"].contains("sparse_cfg"));
  }
}

TEST_CASE("presets NAME prints the file of that preset") {
  const ProgramResult result = run_program({"presets", "SPARSE_SOFTMAX_4_8"});
  CHECK(result.exit_code == 0);
  CHECK(result.out == read_file(MODELOPT_SOURCE_DIR "/configs/SPARSE_SOFTMAX_4_8.json"));
  const ProgramResult unknown = run_program({"presets", "NOPE"});
  CHECK(unknown.exit_code == 2);
  CHECK(unknown.err.starts_with("modelopt: error: there is no preset NOPE, expected one of SKIP_SOFTMAX_CALIB, "));
}

TEST_CASE("validate accepts what presets prints, and reports all problems of all files") {
  const TemporaryDirectory directory;
  const std::string good =
      directory.write("good.json", run_program({"presets", "SPARSE_SOFTMAX_DEFAULT"}).out).string();
  const std::string bad =
      directory
          .write("bad.json", R"({"sparse_cfg": {"*attn*": {"method": "sparse_softmax", "sparsity_m": 5,
      "sparsity_n": "2"}, "default": {"enable": false}}})")
          .string();
  const std::string worse = directory.write("worse.json", "{").string();
  const ProgramResult fine = run_program({"validate", good});
  CHECK(fine.exit_code == 0);
  CHECK(fine.out == good + ": valid\n");

  const ProgramResult result = run_program({"validate", bad, good, worse});
  CHECK(result.exit_code == 2);
  CHECK(result.out == good + ": valid\n");
  CHECK(result.err.find(bad + ": $.sparse_cfg[\"*attn*\"].sparsity_m") != std::string::npos);
  CHECK(result.err.find(bad + ": $.sparse_cfg[\"*attn*\"].sparsity_n") != std::string::npos);
  CHECK(result.err.find(worse) != std::string::npos);
  const ProgramResult data = run_program({"validate", bad, good, "--json", "-"});
  CHECK(data.exit_code == 2);
  CHECK(Json::parse(data.out)["files"][0]["valid"] == false);
  CHECK(Json::parse(data.out)["files"][0]["problems"].size() == 2);
  CHECK(Json::parse(data.out)["files"][1]["valid"] == true);
}

TEST_CASE("a configuration that is neither preset nor file names the presets") {
  const ProgramResult result = run_program({"inspect", "--model", tiny_model(), "--config", "NOPE"});
  CHECK(result.exit_code == 2);
  CHECK(result.err.find("NOPE") != std::string::npos);
  CHECK(result.err.find("SPARSE_SOFTMAX_DEFAULT") != std::string::npos);
}

TEST_CASE("set goes through the same validation as a file") {
  const std::vector<std::string> base = {"inspect", "--model", tiny_model(), "--config", "SPARSE_SOFTMAX_DEFAULT"};
  const auto with = [&](const std::vector<std::string>& assignments) {
    auto arguments = base;
    for (const auto& assignment : assignments) arguments.insert(arguments.end(), {"--set", assignment});
    return arguments;
  };
  const Json data = run_json(with({"sparsity_n=1", "'*attn*'.num_sink_tokens=16"}));
  CHECK(data["modules"][0]["parameters"]["sparsity_n"] == 1);
  CHECK(data["modules"][0]["parameters"]["num_sink_tokens"] == 16);
  for (const char* assignment : {"sparsity_n=4", "sparsity_q=1", "sparsity_n", "'*mlp*'.sparsity_n=1"}) {
    const ProgramResult result = run_program(with({assignment}));
    CAPTURE(assignment, result.err);
    CHECK(result.exit_code == 2);
    CHECK(result.err.starts_with("modelopt: error: "));
  }
}

TEST_CASE("backend chooses how the method runs, under either name") {
  const auto backend = [](const std::string& name) {
    return run_json({"inspect", "--model", tiny_model(), "--config", "SPARSE_SOFTMAX_DEFAULT", "--backend",
                     name})["modules"][0]["backend"];
  };
  CHECK(backend("eager") == "eager");
  CHECK(backend("pytorch") == "eager");
  CHECK(backend("fused") != "eager");
  CHECK(backend("triton") == backend("fused"));
}

}  // namespace
}  // namespace modelopt::test
