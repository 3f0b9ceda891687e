#include <catch2/catch_test_macros.hpp>

#include <string>
#include <vector>

#include <modelopt/util/file.h>

#include "examples/cli/program.h"
#include "modelopt/checkpoint/test_files.h"

namespace modelopt::test {
namespace {

/// Four steps on a tiny model, with a checkpoint in `checkpoint`.
ProgramResult finetune(const TemporaryDirectory& directory, const std::string& checkpoint,
                       const std::vector<std::string>& more) {
  const std::string ids = write_json(directory / "ids.json", some_ids(1500));
  std::vector<std::string> arguments = {
      "--model",   tiny_model(), "--token-ids",     ids,    "--seq-len",    "96",
      "--steps",   "4",          "--batch",         "2",    "--warmup",     "1",
      "--distill", "0.5",        "--learning-rate", "1e-3", "--checkpoint", (directory / checkpoint).string()};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run_program(arguments);
}

std::string bytes(const TemporaryDirectory& directory, const std::string& checkpoint, const std::string& file) {
  return read_file(directory / checkpoint / file);
}

TEST_CASE("a fine-tuning that was stopped and resumed ends with the same bits as one that was not") {
  const TemporaryDirectory directory;
  const ProgramResult whole = finetune(directory, "whole", {});
  INFO(whole.err);
  REQUIRE(whole.exit_code == 0);
  CHECK(whole.out.find("before: dense perplexity ") != std::string::npos);
  CHECK(whole.out.find("step 4: loss ") != std::string::npos);
  CHECK(whole.out.find("the loss gap shrank by ") != std::string::npos);

  REQUIRE(finetune(directory, "parts", {"--stop-after", "2"}).exit_code == 0);
  CHECK(bytes(directory, "parts", "model.safetensors") != bytes(directory, "whole", "model.safetensors"));
  const ProgramResult rest = finetune(directory, "parts", {"--resume"});
  INFO(rest.err);
  REQUIRE(rest.exit_code == 0);
  CHECK(rest.out.find("step 2:") == std::string::npos);
  for (const std::string file : {"model.safetensors", "optimizer.safetensors", "training_state.json", "config.json"}) {
    INFO(file);
    CHECK(bytes(directory, "parts", file) == bytes(directory, "whole", file));
  }

  const ProgramResult other = finetune(directory, "parts", {"--resume", "--weight-decay", "0.5"});
  CHECK(other.exit_code == 3);
  CHECK(other.err.find("training_state.json: is the state of the run {") != std::string::npos);
}

TEST_CASE("fine-tuning refuses what makes no sense") {
  const TemporaryDirectory directory;
  const std::string ids = write_json(directory / "ids.json", some_ids(1500));
  const auto error = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"--model", tiny_model(), "--token-ids", ids};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const ProgramResult result = run_program(arguments);
    CHECK(result.exit_code == 2);
    return result.err;
  };
  CHECK(error({"--resume"}).find("--resume and --save-every need --checkpoint") != std::string::npos);
  CHECK(error({"--config", "SPARSE"}).find("--config is SPARSE, expected one of ") != std::string::npos);
  std::filesystem::create_directory(directory / "results");
  directory.write("results/kept", "x");
  CHECK(error({"--checkpoint", (directory / "results").string()}).find("results: holds no ") != std::string::npos);
  CHECK(read_file(directory / "results/kept") == "x");
  const std::string around = std::filesystem::path(tiny_model()).parent_path().string();
  for (const std::string& path : {tiny_model(), tiny_model() + "/checkpoint", around})
    CHECK(error({"--checkpoint", path}).find(": is, holds or lies in the source directory ") != std::string::npos);
  CHECK(error({"--seq-len", "4000"}).find("there are 0 windows to train on") != std::string::npos);
  CHECK(error({"--seq-len", "96", "--steps", "0"}).find("steps and batch are 0 and 1, expected at least 1") !=
        std::string::npos);
}

}  // namespace
}  // namespace modelopt::test
