#include <catch2/catch_test_macros.hpp>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include <modelopt/util/file.h>

#include "examples/cli/program.h"
#include "modelopt/checkpoint/test_files.h"

namespace modelopt::test {
namespace {

using Json = nlohmann::ordered_json;

// A model of random weights with a tokenizer, and room for 4096 tokens.
std::string model_with_tokenizer(const TemporaryDirectory& directory) {
  std::filesystem::copy(tiny_model("llama_llama3rope"), directory / "tiny");
  std::filesystem::copy(MODELOPT_TEST_DATA "/tokenizers/bytes/tokenizer.json", directory / "tiny");
  return (directory / "tiny").string();
}

// Small blocks and short prompts, so that the model has something to skip and is quick.
std::vector<std::string> calibrate_arguments(const std::string& model, const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {"calibrate",
                                        "--model",
                                        model,
                                        "--config",
                                        "SKIP_SOFTMAX_TRITON_CALIB",
                                        "--set",
                                        "br=8",
                                        "--set",
                                        "bc=8",
                                        "--calib_samples",
                                        "2",
                                        "--calib_max_seqlen",
                                        "1024",
                                        "--calib_chunk_size",
                                        "-1",
                                        "--set",
                                        "calibration.num_length_bins=1",
                                        "--set",
                                        "calibration.num_decode_tokens=2",
                                        "--target_sparse_ratio",
                                        "0.4"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST_CASE("calibrate exports a model whose thresholds skip what was asked for") {
  const TemporaryDirectory directory;
  const std::string model = model_with_tokenizer(directory), exported = (directory / "skip").string();
  const Json report = run_json(calibrate_arguments(
      model, {"--export", exported, "--ruler-samples", "1", "--cache", (directory / "counts").string()}));
  const Json& calibration = report["calibration"];
  CHECK(calibration["br"] == 8);
  CHECK(calibration["provenance"]["samples"] == 2);
  for (const char* phase : {"prefill", "decode"}) {
    CHECK(calibration[phase]["form"] == "table");
    REQUIRE(report[phase].size() == 1);
    CHECK(report[phase][0]["seq_len"] == 1024);
    CHECK(report[phase][0]["target"] == 0.4);
    CHECK(std::abs(report[phase][0]["skipped_fraction"].get<double>() - 0.4) < 1e-9);
    CHECK(report[phase][0]["largest"].get<double>() > 0.4);
  }
  // all tasks together, dense and calibrated, on prompts that the calibration has not seen
  const Json& ruler = report["ruler"];
  const Json& dense = ruler[ruler.size() - 2];
  const Json& sparse = ruler[ruler.size() - 1];
  CHECK(dense["task"] == "all");
  CHECK(dense["config"].is_null());
  CHECK(dense["prefill_skipped_fraction"].is_null());
  CHECK(sparse["config"] == "SKIP_SOFTMAX_TRITON_CALIB");
  CHECK(std::abs(sparse["prefill_skipped_fraction"].get<double>() - 0.4) < 0.1);

  const std::string config = read_file(exported + "/config.json");
  CHECK(config.find("at thresholds that calibration fits") != std::string::npos);  // true before and after
  CHECK(config.find("cache_dir") == std::string::npos);

  const ProgramResult inspected = run_program({"inspect", "--model", exported});
  CHECK(inspected.exit_code == 0);
  CHECK(inspected.out.find("skip_softmax") != std::string::npos);
  const ProgramResult generated =
      run_program({"generate", "--model", exported, "--prompt", "Light", "--max-new-tokens", "2"});
  CHECK(generated.exit_code == 0);
  CHECK(generated.err.find("skip_softmax") != std::string::npos);

  // a line for each module in each phase, and every threshold counted
  const ProgramResult outside =
      run_program({"generate", "--model", exported, "--prompt", "Light", "--max-new-tokens", "3", "--stats"});
  for (const char* module : {"model.layers.0.self_attn", "model.layers.1.self_attn"}) {
    const std::string warning = str("warning skip-softmax on ", module, ", ");
    const std::string prefill = warning + "prefill: target sparsity 0.4 at 2 tokens, expected 1024 to 1024 ";
    REQUIRE(outside.err.find(prefill) != std::string::npos);
    CHECK(outside.err.find(prefill) == outside.err.rfind(prefill));
    CHECK(outside.err.find(warning + "decode: target sparsity 0.4 at 3 tokens, ") != std::string::npos);
  }
  CHECK(
      outside.out.ends_with("prefill: 2 calibrated thresholds, 2 outside of what was measured, 0 clamped\n"
                            "decode: 4 calibrated thresholds, 4 outside of what was measured, 0 clamped\n"));
  const ProgramResult within = run_program({"eval", "--model", exported, "--ruler", "--ruler-tasks", "niah_single",
                                            "--ruler-samples", "1", "--seq-len", "1024", "--stats"});
  CHECK(within.exit_code == 0);
  CHECK(within.err.find("warning") == std::string::npos);
  CHECK(within.out.find("\n\ncheckpoint, prompts of 1024 tokens\nmodule                    phase    blocks  ") !=
        std::string::npos);
  CHECK(within.out.find("prefill: 2 calibrated thresholds, 0 outside of what was measured, 0 clamped\n") !=
        std::string::npos);
}

TEST_CASE("a second calibration takes its counts from the cache, and another target costs no forward") {
  const TemporaryDirectory directory;
  const std::string model = model_with_tokenizer(directory), cache = (directory / "counts").string();
  const std::vector<std::string> more = {"--cache", cache, "--ruler-samples", "0"};
  const Json first = run_json(calibrate_arguments(model, more));
  std::vector<std::string> other = calibrate_arguments(model, more);
  other.insert(other.end(), {"--set", "calibration.target_sparse_ratio=0.3"});
  const Json second = run_json(other);
  for (const Json& sample : first["samples"]) CHECK(sample["cached"] == false);
  for (const Json& sample : second["samples"]) CHECK(sample["cached"] == true);
  CHECK(first["calibration"] == second["calibration"]);
}

TEST_CASE("what calibrate cannot do is said in one line") {
  const TemporaryDirectory directory;
  const std::string model = model_with_tokenizer(directory);
  const auto refuses = [](const std::vector<std::string>& arguments, int exit_code, const std::string& message) {
    const ProgramResult result = run_program(arguments);
    CHECK(result.exit_code == exit_code);
    CHECK(result.err == "modelopt: error: " + message + "\n");
  };
  refuses({"calibrate", "--model", model, "-q"}, 2,
          "calibrate needs --config NAME|FILE, with a calibration block, e.g. SKIP_SOFTMAX_CALIB");
  refuses({"calibrate", "--model", model, "--config", "SKIP_SOFTMAX_CALIB", "-q"}, 2,
          "calibration.max_seqlen is 16384, expected at most 4096, the model's context");
  refuses({"calibrate", "--model", tiny_model("llama"), "--config", "SKIP_SOFTMAX_CALIB", "-q"}, 3,
          tiny_model("llama") + ": holds no tokenizer.json, expected one to make prompts with");
}

TEST_CASE("eval --ruler lists every prompt with what is missing, and the sums over tasks") {
  const TemporaryDirectory directory;
  const std::string model = model_with_tokenizer(directory);
  const Json data =
      run_json({"eval", "--model", model, "--ruler", "--seq-len", "600", "--ruler-tasks", "niah_single,niah_multivalue",
                "--ruler-samples", "2", "--config", "SPARSE_SOFTMAX_DEFAULT"});
  const Json& results = data["ruler"];
  REQUIRE(results.size() == 6);  // two tasks and their sum, dense and sparse
  CHECK(results[0]["task"] == "niah_single");
  CHECK(results[0]["config"].is_null());
  CHECK(results[1]["config"] == "SPARSE_SOFTMAX_DEFAULT");
  CHECK(results[4]["task"] == "all");
  CHECK(results[4]["samples"] == 4);
  for (const Json& prompt : results[2]["prompts"]) {
    CHECK(prompt["answers"].size() == 4);
    CHECK(prompt["missing"].size() == 4);  // a model of random weights finds nothing
    CHECK(prompt["prompt_tokens"].get<int>() <= 600);
  }
  CHECK(results[2]["score"] == 0.0);
  CHECK(results[2]["complete"] == 0);
  CHECK_FALSE(results[3].contains("statistics"));
  CHECK(results[5]["statistics"].size() == 2 * 2 * 2);  // phases, modules, key heads
  CHECK(results[5]["thresholds"]["prefill"]["calibrated"] == 0);
}

TEST_CASE("options of RULER without RULER, and tasks that are none, are refused") {
  const TemporaryDirectory directory;
  const std::string model = model_with_tokenizer(directory);
  const ProgramResult unused =
      run_program({"eval", "--model", model, "--text", model + "/config.json", "--ruler-samples", "3"});
  CHECK(unused.exit_code == 2);
  CHECK(unused.err ==
        "modelopt: error: --ruler-tasks, --ruler-samples and --ruler-text have an effect only with --ruler\n");
  const ProgramResult unknown =
      run_program({"eval", "--model", model, "--ruler", "--ruler-tasks", "niah", "--seq-len", "600", "-q"});
  CHECK(unknown.exit_code == 2);
  CHECK(unknown.err.starts_with("modelopt: error: --ruler-tasks niah: expected niah_single, "));
}

}  // namespace
}  // namespace modelopt::test
