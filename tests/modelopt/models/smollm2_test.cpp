// SmolLM2-135M-Instruct against what transformers computes in fp32 from the same bf16 weights (tests/data/smollm2).
#include <ATen/TensorOperators.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <modelopt/checkpoint/load_model.h>
#include <modelopt/checkpoint/safetensors_file.h>
#include <modelopt/models/generate.h>

using namespace modelopt;
using namespace modelopt::models;
using nlohmann::json;

namespace {

using Ids = std::vector<std::int64_t>;

// Logits reach 23 in size; transformers' own differ by about 4e-5 between ways of computing them in fp32.
constexpr double kLogitRounding = 1e-4;

constexpr std::int64_t kEndOfTurn = 2;  // <|im_end|>

CausalLM& model() {
  static const std::shared_ptr<CausalLM> loaded = [] {
    const char* named = std::getenv("MODELOPT_SMOLLM2_DIR");
    const std::filesystem::path directory = named != nullptr ? named : MODELOPT_SMOLLM2_DIR;
    if (!std::filesystem::exists(directory / "config.json")) {
      FAIL("there is no SmolLM2-135M-Instruct at "
           << directory.string() << ": run `make model`, or set MODELOPT_SMOLLM2_DIR to its directory");
    }
    return checkpoint::load_model(directory, {.dtype = at::kFloat}).model;
  }();
  return *loaded;
}

json read_json(const std::string& name) {
  std::ifstream file(MODELOPT_TEST_DATA "/smollm2/" + name);
  return json::parse(file);
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

// The tokens up to the first step that rounding may turn.
Ids certain_tokens(const json& golden) {
  const std::vector<double> margins = golden["margins"];
  const auto uncertain =
      std::find_if(margins.begin(), margins.end(), [](double margin) { return margin < 2 * kLogitRounding; });
  const Ids ids = golden["new_ids"];
  return {ids.begin(), ids.begin() + (uncertain - margins.begin())};
}

}  // namespace

TEST_CASE("Last logits and the loss of every token are those of transformers within fp32 rounding") {
  const c10::NoGradGuard no_grad;
  const std::string prompt = GENERATE("short", "medium", "long");
  INFO(prompt);
  const Ids ids = read_json("prompts.json")[prompt]["input_ids"];
  ModelInput input;
  input.input_ids = at::tensor(ids, at::kLong);
  input.lengths = {std::ssize(ids)};
  const at::Tensor logits = model().forward(input).logits;

  const checkpoint::SafetensorsFile golden(MODELOPT_TEST_DATA "/smollm2/" + prompt + ".safetensors");
  const std::int64_t predictions = std::ssize(ids) - 1;
  CHECK(largest_difference(logits[predictions], golden.tensor("last_logits")) < kLogitRounding);
  const at::Tensor next = input.input_ids.narrow(0, 1, predictions).unsqueeze(1);
  const at::Tensor nll = -at::log_softmax(logits.narrow(0, 0, predictions), -1).gather(1, next).squeeze(1);
  CHECK(largest_difference(nll, golden.tensor("nll")) < 2 * kLogitRounding);
}

TEST_CASE("Greedy continuations are those of transformers, for single prompts and for a batch of different lengths") {
  const json goldens = read_json("greedy.json");
  GenerateConfig config;
  config.max_new_tokens = 64;
  config.stop_token_ids = {kEndOfTurn};
  std::vector<Ids> prompts, expected;
  for (const json& golden : goldens) {
    prompts.push_back(golden["input_ids"]);
    expected.push_back(certain_tokens(golden));
    REQUIRE(expected.back().size() == golden["new_ids"].size());
  }
  SECTION("single, the prompt in chunks") {
    config.chunk_size = 100;
    for (std::size_t i = 0; i < prompts.size(); ++i)
      CHECK(generate(model(), {prompts[i]}, config).sequences[0].ids == expected[i]);
  }
  SECTION("batch") {
    const GenerateResult result = generate(model(), prompts, config);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      CHECK(result.sequences[i].ids == expected[i]);
      const bool stopped = expected[i].back() == kEndOfTurn;
      CHECK(result.sequences[i].finish_reason == (stopped ? FinishReason::kStop : FinishReason::kLength));
    }
  }
}
