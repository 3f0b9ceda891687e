// SmolLM2-135M-Instruct on a GPU, in bf16 (CTest label gpu).
#include <ATen/TensorOperators.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <nlohmann/json.hpp>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <modelopt/checkpoint/load_model.h>
#include <modelopt/checkpoint/safetensors_file.h>
#include <modelopt/models/causal_lm.h>

using namespace modelopt;
using namespace modelopt::models;
using nlohmann::json;

namespace {

std::shared_ptr<CausalLM> load(at::Device device) {
  const char* named = std::getenv("MODELOPT_SMOLLM2_DIR");
  const std::filesystem::path directory = named != nullptr ? named : MODELOPT_SMOLLM2_DIR;
  if (!std::filesystem::exists(directory / "config.json")) {
    FAIL("there is no SmolLM2-135M-Instruct at " << directory.string()
                                                 << ": run `make model`, or set MODELOPT_SMOLLM2_DIR to its directory");
  }
  return checkpoint::load_model(directory, {.dtype = at::kBFloat16, .device = device}).model;
}

// Root of the mean square difference from what transformers computes in fp32.
struct Errors {
  double last_logits, nll;
};

Errors errors_of(CausalLM& model, const std::vector<std::int64_t>& ids, const checkpoint::SafetensorsFile& golden) {
  const c10::NoGradGuard no_grad;
  ModelInput input;
  input.input_ids = at::tensor(ids, at::kLong);
  input.lengths = {std::ssize(ids)};
  const at::Tensor logits = model.forward(input).logits.to(at::kCPU, at::kFloat);
  const std::int64_t predictions = std::ssize(ids) - 1;
  const at::Tensor next = input.input_ids.narrow(0, 1, predictions).unsqueeze(1);
  const at::Tensor nll = -at::log_softmax(logits.narrow(0, 0, predictions), -1).gather(1, next).squeeze(1);
  const auto rms = [](const at::Tensor& a, const at::Tensor& b) {
    return (a - b).square().mean().sqrt().item<double>();
  };
  return {rms(logits[predictions], golden.tensor("last_logits")), rms(nll, golden.tensor("nll"))};
}

}  // namespace

TEST_CASE("bf16 on the GPU is as near to transformers in fp32 as bf16 on the CPU, within a factor of 2") {
  const std::string prompt = GENERATE("short", "medium", "long");
  std::ifstream file(MODELOPT_TEST_DATA "/smollm2/prompts.json");
  const std::vector<std::int64_t> ids = json::parse(file)[prompt]["input_ids"];
  const checkpoint::SafetensorsFile golden(MODELOPT_TEST_DATA "/smollm2/" + prompt + ".safetensors");
  const Errors cpu = errors_of(*load(at::kCPU), ids, golden), gpu = errors_of(*load(at::kCUDA), ids, golden);
  CAPTURE(prompt, cpu.last_logits, gpu.last_logits, cpu.nll, gpu.nll);
  CHECK(gpu.last_logits <= 2 * cpu.last_logits);
  CHECK(gpu.nll <= 2 * cpu.nll);
}
