// The program with --device cuda (CTest label gpu).
#include <ATen/core/Tensor.h>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <string>
#include <vector>

#include <modelopt/checkpoint/safetensors_file.h>

#include "examples/cli/program.h"
#include "modelopt/checkpoint/test_files.h"

namespace modelopt::test {
namespace {

using Json = nlohmann::ordered_json;

TEST_CASE("logits are those of the CPU") {
  const TemporaryDirectory directory;
  const std::string ids = write_json(directory / "ids.json", some_ids(200));
  const auto logits = [&](const std::string& device) {
    const std::string out = (directory / device).string();
    const Json data = run_json({"logits", "--model", tiny_model(), "--token-ids", ids, "--out", out, "--device", device,
                                "--dtype", "float32"});
    return checkpoint::SafetensorsFile(out).tensor("logits");
  };
  CHECK(logits("cuda").sub(logits("cpu")).abs().max().item().toDouble() < 5e-5);
}

TEST_CASE("a model is bf16 on the GPU unless another dtype is asked for, and its modules name the GPU's backend") {
  const auto inspect = [](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"inspect", "--model", tiny_model(), "--device", "cuda:0"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_json(arguments);
  };
  CHECK(inspect({})["dtype"] == "bfloat16");
  const Json fp32 = inspect({"--dtype", "float32"});
  CHECK(fp32["dtype"] == "float32");
  CHECK(fp32["modules"][0]["backend"] == "sm80");
  CHECK(inspect({"--kernel", "sm80"})["modules"][0]["backend"] == "sm80");
  const ProgramResult cpu_kernel =
      run_program({"inspect", "--model", tiny_model(), "--device", "cuda", "--kernel", "cpu"});
  CHECK(cpu_kernel.exit_code == 4);
  CHECK(cpu_kernel.err.find("runs on CPU tensors") != std::string::npos);
}

TEST_CASE("generate, sparsify and eval run on the GPU") {
  const TemporaryDirectory directory;
  const std::string ids = write_json(directory / "ids.json", some_ids(200));
  const std::string dtype = GENERATE("auto", "float32");
  const auto with = [&](std::vector<std::string> arguments) {
    const std::vector<std::string> common = {"--model",  tiny_model(), "--token-ids", ids,
                                             "--device", "cuda",       "--dtype",     dtype};
    arguments.insert(arguments.end(), common.begin(), common.end());
    return run_json(arguments);
  };
  const Json generated = with({"generate", "--max-new-tokens", "8", "--do-sample"});
  CHECK(generated["sequences"][0]["ids"].size() == 8);

  const Json sparse = with({"sparsify", "--config", "SPARSE_SOFTMAX_DEFAULT", "--max-new-tokens", "8"});
  CHECK(sparse["modules"][0]["method"] == "sparse_softmax");
  CHECK(sparse["comparison"]["kld_mean"] > 0);
  CHECK(sparse["comparison"]["kept_fraction"] < 1);

  const Json evaluated = with({"eval", "--config", "SPARSE_SOFTMAX_DEFAULT", "--seq-len", "100", "--windows", "2"});
  CHECK(evaluated["results"][0]["windows"] == 2);
  CHECK(evaluated["results"][0]["kld_mean"] > 0);
}

}  // namespace
}  // namespace modelopt::test
