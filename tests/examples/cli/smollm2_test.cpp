// SmolLM2-135M-Instruct from end to end.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "examples/cli/program.h"
#include "modelopt/checkpoint/test_files.h"

namespace modelopt::test {
namespace {

using Json = nlohmann::ordered_json;
using Catch::Matchers::WithinAbs;

std::string smollm2() {
  const char* named = std::getenv("MODELOPT_SMOLLM2_DIR");
  const std::string directory = named != nullptr ? named : MODELOPT_SOURCE_DIR "/models/SmolLM2-135M-Instruct";
  INFO("no model at " << directory << ": `make model` fetches it");
  REQUIRE(std::filesystem::exists(directory + "/model.safetensors"));
  return directory;
}

TEST_CASE("perplexity of SmolLM2 on Opticks and the small loss of 2:4") {
  const Json data =
      run_json({"eval", "--model", smollm2(), "--text", MODELOPT_TEST_DATA "/text/opticks.txt", "--seq-len", "2048",
                "--windows", "3", "--config", "SPARSE_SOFTMAX_DEFAULT", "--dtype", "float32"});
  const Json& result = data["results"][0];
  CHECK(result["windows"] == 3);
  CHECK(result["tokens"] == 3 * 2047);
  CHECK_THAT(result["dense_ppl"].get<double>(), WithinAbs(20.54, 0.02));
  CHECK(result["ppl"] > result["dense_ppl"]);
  CHECK(result["ppl"] < 1.02 * result["dense_ppl"].get<double>());
  CHECK(result["kld_mean"] > 0.001);
  CHECK(result["kld_mean"] < 0.02);
  CHECK(result["top1"] > 0.9);
}

TEST_CASE("SmolLM2 sparsified and exported continues its prompt in words") {
  const TemporaryDirectory directory;
  const std::string out = (directory / "sparse").string();
  const Json data = run_json({"sparsify", "--model", smollm2(), "--config", "SPARSE_SOFTMAX_DEFAULT", "--prompt-tokens",
                              "300", "--max-new-tokens", "12", "--export", out});
  CHECK(data["modules"].size() == 30);
  CHECK(data["prompt_tokens"] == 300);
  CHECK_FALSE(data["generation"]["dense"]["text"].get<std::string>().empty());
  const Json again = run_json({"generate", "--model", out, "--prompt-tokens", "300", "--max-new-tokens", "12"});
  CHECK(again["config"] == "checkpoint");
  CHECK(again["sequences"][0]["text"] == data["generation"]["sparse"]["text"]);
}

TEST_CASE("SmolLM2 knows the capital of France") {
  const ProgramResult result =
      run_program({"generate", "--model", smollm2(), "--prompt", "The capital of France is", "--max-new-tokens", "4"});
  CHECK(result.exit_code == 0);
  CHECK(result.out.find("Paris") != std::string::npos);
}

}  // namespace
}  // namespace modelopt::test
