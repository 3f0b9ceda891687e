#include <catch2/catch_test_macros.hpp>

#include <string>

#include "examples/cli/program.h"
#include "modelopt/checkpoint/test_files.h"

namespace modelopt::test {
namespace {

using Json = nlohmann::ordered_json;

TEST_CASE("inspect shows the architecture and every attention module by name") {
  const Json data = run_json({"inspect", "--model", tiny_model("mistral_sliding")});
  CHECK(data["model_type"] == "mistral");
  CHECK(data["dtype"] == "float32");
  CHECK(data["num_hidden_layers"] == data["modules"].size());
  CHECK(data["sliding_window"].is_array());
  CHECK(data["tokenizer"] == false);
  CHECK(data["config"].is_null());
  CHECK(data["modules"][1]["name"] == "model.layers.1.self_attn");
  CHECK(data["modules"][1]["class"] == "MistralAttention");
  CHECK(data["modules"][1]["method"].is_null());
}

TEST_CASE("inspect shows what a configuration would match, and what it would not") {
  const TemporaryDirectory directory;
  const std::string config = write_json(directory / "c.json", Json::parse(R"({"sparse_cfg": {
      "*layers.1.self_attn": {"method": "sparse_softmax"}, "*cross_attn*": {"method": "sparse_softmax"},
      "default": {"enable": false}}})"));
  const Json data = run_json({"inspect", "--model", tiny_model(), "--config", config});
  CHECK(data["modules"][0]["rule"] == "default");
  CHECK(data["modules"][1]["rule"] == "*layers.1.self_attn");
  CHECK(data["modules"][1]["method"] == "sparse_softmax");
  CHECK(data["unmatched_patterns"] == Json{"*cross_attn*"});
  const ProgramResult text = run_program({"inspect", "--model", tiny_model(), "--config", config});
  CHECK(text.exit_code == 0);
  CHECK(text.out.find("the pattern *cross_attn* matches no attention module\n") != std::string::npos);
}

TEST_CASE("arithmetic is in fp32 unless another dtype is asked for") {
  CHECK(run_json({"inspect", "--model", tiny_model("llama_bf16")})["dtype"] == "float32");
  CHECK(run_json({"inspect", "--model", tiny_model("llama_bf16"), "--dtype", "bfloat16"})["dtype"] == "bfloat16");
}

TEST_CASE("with quiet and json on stdout nothing else is written anywhere") {
  const ProgramResult result = run_program({"inspect", "--model", tiny_model(), "-q", "--json", "-"});
  CHECK(result.err.empty());
  CHECK(Json::accept(result.out));
}

TEST_CASE("progress goes to stderr when asked for, and only then where that is no terminal") {
  CHECK(run_program({"inspect", "--model", tiny_model()}).err.empty());
  const ProgramResult shown = run_program({"inspect", "--model", tiny_model(), "--progress", "on"});
  CHECK(shown.err.find("loading      [##############################] 100%") != std::string::npos);
  CHECK(shown.out.find("loading") == std::string::npos);
}

}  // namespace
}  // namespace modelopt::test
