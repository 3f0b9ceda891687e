// Wrong usage: exit code 2 and one line that says what was expected.
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "examples/cli/program.h"
#include "modelopt/checkpoint/test_files.h"

namespace modelopt::test {
namespace {

using Arguments = std::vector<std::string>;

// The one line on stderr of a run that is expected to fail with this code.
std::string error_line(int exit_code, const Arguments& arguments) {
  const ProgramResult result = run_program(arguments);
  INFO(result.err);
  CHECK(result.exit_code == exit_code);
  CHECK(result.out.empty());
  const std::string prefix = "modelopt: error: ";
  REQUIRE(result.err.starts_with(prefix));
  CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
  return result.err.substr(prefix.size(), result.err.size() - prefix.size() - 1);
}

TEST_CASE("help and version end well and go to stdout") {
  const ProgramResult help = run_program({"--help"});
  CHECK(help.exit_code == 0);
  CHECK(help.err.empty());
  for (const char* name :
       {"presets", "validate", "inspect", "sparsify", "generate", "eval", "calibrate", "bench", "tokenize", "logits"})
    CHECK(help.out.find(std::string("\n  ") + name + " ") != std::string::npos);
  CHECK(run_program({"eval", "--help"}).out.find("--seq-len") != std::string::npos);
  CHECK(run_program({"--version"}).exit_code == 0);
}

TEST_CASE("a command is needed, and it must exist") {
  CHECK(error_line(2, {}) == "A subcommand is required");
  for (const char* name : {"quantize", "Presets"})
    CHECK(error_line(2, {name}) == std::string("there is no command ") + name +
                                       ", expected one of presets, validate, inspect, sparsify, generate, eval, "
                                       "calibrate, bench, tokenize, logits");
}

TEST_CASE("unknown options and missing ones are refused") {
  CHECK(error_line(2, {"presets", "--frobnicate"}).find("--frobnicate") != std::string::npos);
  CHECK(error_line(2, {"inspect"}).find("--model") != std::string::npos);
  CHECK(error_line(2, {"inspect", "--model", "a", "--model", "b"}).find("--model") != std::string::npos);
  CHECK(error_line(2, {"logits", "--model", tiny_model(), "--token-ids", "x"}).find("--out") != std::string::npos);
  CHECK(error_line(2, {"eval", "--model", tiny_model()}).find("[--text,--token-ids,--ruler]") != std::string::npos);
}

TEST_CASE("values of common options are checked on every command") {
  CHECK(error_line(2, {"presets", "--threads", "0"}).find("--threads") != std::string::npos);
  CHECK(error_line(2, {"presets", "--dtype", "float8"}).find("float8") != std::string::npos);
  CHECK(error_line(2, {"presets", "--kernel", "sm70"}).find("sm70") != std::string::npos);
  CHECK(error_line(2, {"presets", "--backend", "fast"}).find("fast") != std::string::npos);
  CHECK(error_line(2, {"presets", "--seed", "x"}).find("--seed") != std::string::npos);
  CHECK(error_line(2, {"presets", "--device", "tpu"}) == "--device tpu: expected cpu, cuda or cuda:N");
  CHECK(error_line(2, {"presets", "--device", "cuda:x"}) == "--device cuda:x: expected cpu, cuda or cuda:N");
  CHECK(error_line(2, {"presets", "-v", "-q"}).find("--quiet") != std::string::npos);
}

TEST_CASE("a device that is not there is refused before anything is loaded") {
  for (const std::string device : {"cuda:100", "cuda:999"})  // on machines with GPUs too
    CHECK(
        error_line(4, {"inspect", "--model", "nowhere", "--device", device}).starts_with("--device " + device + ": "));
  CHECK(error_line(4, {"inspect", "--model", tiny_model(), "--kernel", "sm90"}).find("sm90") != std::string::npos);
}

TEST_CASE("options that contradict each other are refused with a reason") {
  const std::string model = tiny_model();
  const Arguments inspect = {"inspect", "--model", model};
  const auto with = [](Arguments base, const Arguments& more) {
    base.insert(base.end(), more.begin(), more.end());
    return base;
  };
  CHECK(error_line(2, with(inspect, {"--dense", "--config", "SPARSE_SOFTMAX_DEFAULT"})) ==
        "--dense runs without sparsity, and --config or --sparse_attn asks for it");
  CHECK(error_line(2, with(inspect, {"--dense", "--set", "sparsity_n=1"})) ==
        "--dense runs without sparsity, so --set has nothing to change");
  CHECK(error_line(2, with(inspect, {"--dense", "--backend", "eager"})) ==
        "--dense runs without sparsity, so --backend eager has no method to choose for");
  CHECK(error_line(2, with(inspect, {"--config", "SPARSE_SOFTMAX_DEFAULT", "--sparse_attn", "sparse_softmax"})) ==
        "--config and --sparse_attn both name a configuration, expected one of them");
  CHECK(error_line(2, with(inspect, {"--set", "sparsity_n=1"})) ==
        "--set sparsity_n=1: there is no configuration to change, expected --config too");
  CHECK(error_line(2, with(inspect, {"--backend", "eager"})) ==
        "--backend eager: there is no sparse method to choose it for, expected --config too");
  CHECK(error_line(2, with(inspect, {"--config", "SPARSE_SOFTMAX_DEFAULT", "--config", "SPARSE_SOFTMAX_4_8"}))
            .find("--config") != std::string::npos);
  CHECK(error_line(2, {"eval", "--model", model, "--token-ids", "x", "--text", "y"})
            .find("[--text,--token-ids,--ruler]") != std::string::npos);
  CHECK(error_line(2, {"eval", "--model", model, "--token-ids", "x", "--config", "SPARSE_SOFTMAX_4_8", "--config",
                       "SPARSE_SOFTMAX_4_8"}) == "--config SPARSE_SOFTMAX_4_8: is given twice");
  CHECK(error_line(2, {"sparsify", "--model", model, "--overwrite"}) == "--overwrite has an effect only with --export");
  CHECK(error_line(2, {"sparsify", "--model", model, "--dense"}).find("--dense") != std::string::npos);
  CHECK(error_line(2, {"generate", "--model", model, "--prompt", "a", "--prompt-file", "b"}).find("--prompt") !=
        std::string::npos);
  CHECK(error_line(2, {"tokenize", "--model", model, "--decode", "--no-special"}) ==
        "--no-special is for encoding, expected --skip-special with --decode");
  CHECK(error_line(2, {"tokenize", "--model", model, "--skip-special"}) ==
        "--skip-special is for --decode, expected --no-special without it");
}

TEST_CASE("sampling options need sampling, and values in their domain") {
  const auto refused = [](const Arguments& more) {
    Arguments arguments = {"generate", "--model", tiny_model()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return error_line(2, arguments);
  };
  CHECK(refused({"--temperature", "0.5"}) == "--temperature has an effect only with --do-sample");
  CHECK(refused({"--top-k", "5"}) == "--top-k has an effect only with --do-sample");
  CHECK(refused({"--top_p", "0.5"}) == "--top-p has an effect only with --do-sample");
  CHECK(refused({"--do_sample", "--temperature", "0"}) ==
        "--temperature 0: expected more than 0 (the most likely token is taken without --do-sample)");
  CHECK(refused({"--do_sample", "--temperature", "nan"}).find("--temperature nan") == 0);
  CHECK(refused({"--do-sample", "--top-k", "-1"}) == "--top-k -1: expected at least 0");
  CHECK(refused({"--do-sample", "--top-p", "1.5"}) == "--top-p 1.5: expected more than 0 and at most 1");
  CHECK(refused({"--max-new-tokens", "0"}).find("--max-new-tokens") != std::string::npos);
}

TEST_CASE("upstream's names of methods lead to the presets") {
  const std::map<std::string, std::string> presets = {{"sparse_softmax", "SPARSE_SOFTMAX_DEFAULT"},
                                                      {"skip_softmax_calib", "SKIP_SOFTMAX_CALIB"},
                                                      {"skip_softmax_calib_sparse24", "SKIP_SOFTMAX_CALIB_SPARSE24"},
                                                      {"skip_softmax_triton_calib", "SKIP_SOFTMAX_TRITON_CALIB"}};
  for (const auto& [name, preset] : presets)
    CHECK(run_json({"inspect", "--pyt_ckpt_path", tiny_model(), "--sparse_attn", name})["config"] == preset);
  CHECK(error_line(2, {"inspect", "--model", tiny_model(), "--sparse_attn", "magic"}) ==
        "--sparse_attn magic: expected sparse_softmax, skip_softmax_calib, skip_softmax_calib_sparse24 or "
        "skip_softmax_triton_calib");
}

TEST_CASE("a model directory that is none is invalid data") {
  const TemporaryDirectory directory;
  CHECK(error_line(3, {"inspect", "--model", (directory / "nowhere").string()}).find("nowhere") != std::string::npos);
  CHECK(error_line(3, {"inspect", "--model", directory.path().string()}).find("config.json") != std::string::npos);
  directory.write("config.json", "{\"model_type\": \"gpt2\"}");
  CHECK(error_line(3, {"inspect", "--model", directory.path().string()}).find("gpt2") != std::string::npos);
}

TEST_CASE("files that cannot be written are refused before any work or reported after it") {
  const TemporaryDirectory directory;
  const std::string missing = (directory / "no/such.json").string();
  CHECK(error_line(2, {"presets", "--json", missing}) ==
        "--json " + missing + ": there is no directory " + (directory / "no").string());
  CHECK(error_line(2, {"presets", "--json", directory.path().string()}) ==
        "--json " + directory.path().string() + ": is a directory, expected a file name");
  CHECK(error_line(2, {"logits", "--model", tiny_model(), "--token-ids", "x", "--out", missing}) ==
        "--out " + missing + ": there is no directory " + (directory / "no").string());
}

TEST_CASE("a full or closed stdout is an error") {
  const ProgramResult full = run_program_into("/dev/full", {"presets"});
  CHECK(full.exit_code == 1);
  CHECK(full.err == "modelopt: error: standard output: cannot write: No space left on device\n");
  const ProgramResult closed = run_program_into("", {"presets"});
  CHECK(closed.exit_code == 1);
  CHECK(closed.err == "modelopt: error: standard output: cannot write: Bad file descriptor\n");
}

}  // namespace
}  // namespace modelopt::test
