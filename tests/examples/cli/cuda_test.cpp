// The program with --device cuda (CTest label gpu).
#include <ATen/core/Tensor.h>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <cmath>
#include <filesystem>
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

  const Json counted =
      with({"sparsify", "--config", "SKIP_SOFTMAX_TRITON_DEFAULT", "--set", "br=8", "--set", "bc=8", "--set",
            R"(thresholds={"prefill": [0.5, 0.9], "decode": [0.5, 0.9]})", "--max-new-tokens", "8"});
  const Json& group = counted["statistics"][0];
  CHECK(group["blocks_skipped"] > 0);
  CHECK(group["trials"][0]["threshold"] == 0.9);
  CHECK(group["trials"][0]["blocks_skipped"] > group["blocks_skipped"]);
  CHECK(group["trials"][0]["blocks_skipped"] < group["blocks_visible"]);

  const Json evaluated = with({"eval", "--config", "SPARSE_SOFTMAX_DEFAULT", "--seq-len", "100", "--windows", "2"});
  CHECK(evaluated["results"][0]["windows"] == 2);
  CHECK(evaluated["results"][0]["kld_mean"] > 0);
}

TEST_CASE("calibrate counts on the GPU what it counts on the CPU") {
  const TemporaryDirectory directory;
  std::filesystem::copy(tiny_model("llama_llama3rope"), directory / "tiny");
  std::filesystem::copy(MODELOPT_TEST_DATA "/tokenizers/bytes/tokenizer.json", directory / "tiny");
  const auto calibrate = [&](const std::string& device, const std::string& dtype) {
    return run_json({"calibrate",
                     "--model",
                     (directory / "tiny").string(),
                     "--config",
                     "SKIP_SOFTMAX_TRITON_CALIB",
                     "--set",
                     "br=8",
                     "--set",
                     "bc=8",
                     "--samples",
                     "2",
                     "--max-seqlen",
                     "1024",
                     "--chunk-size",
                     "512",
                     "--set",
                     "calibration.num_length_bins=1",
                     "--set",
                     "calibration.num_decode_tokens=2",
                     "--target-sparsity",
                     "0.4",
                     "--ruler-samples",
                     "0",
                     "--device",
                     device,
                     "--dtype",
                     dtype});
  };
  const Json on_cpu = calibrate("cpu", "float32")["rules"][0]["calibration"];
  const Json on_gpu = calibrate("cuda", "float32")["rules"][0]["calibration"];
  for (const char* phase : {"prefill", "decode"}) {
    const Json& expected = on_cpu[phase]["table"]["shares"][0];
    const Json& shares = on_gpu[phase]["table"]["shares"][0];
    REQUIRE(shares.size() == expected.size());
    // other roundings of the model's values: a few decisions of thousands differ
    for (std::size_t t = 0; t < shares.size(); ++t) {
      CHECK(std::abs(shares[t].get<double>() - expected[t].get<double>()) < 0.01);
    }
    CHECK(shares.back().get<double>() > 0.4);
  }
  CHECK(calibrate("cuda", "auto")["rules"][0]["prefill"][0]["largest"].get<double>() > 0.4);
}

}  // namespace
}  // namespace modelopt::test
