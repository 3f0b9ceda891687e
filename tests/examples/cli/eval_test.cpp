#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>

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
using Catch::Matchers::WithinRel;

std::vector<std::string> eval_arguments(const std::string& ids, const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {"eval", "--model", tiny_model(), "--token-ids", ids};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST_CASE("eval writes one result per length and configuration with the documented keys") {
  const TemporaryDirectory directory;
  const std::string ids = write_json(directory / "ids.json", Json::array({some_ids(130), some_ids(70)}));
  const Json data =
      run_json(eval_arguments(ids, {"--seq-len", "64,32", "--windows", "3", "--config", "SPARSE_SOFTMAX_DEFAULT",
                                    "--config", "SPARSE_SOFTMAX_1_4", "--set", "dense_window_size=4"}));
  const Json& results = data["results"];
  REQUIRE(results.size() == 4);
  CHECK(results[0]["config"] == "SPARSE_SOFTMAX_DEFAULT");
  CHECK(results[1]["config"] == "SPARSE_SOFTMAX_1_4");
  CHECK(results[1]["seq_len"] == 64);
  CHECK(results[2]["seq_len"] == 32);
  std::vector<std::string> keys;
  for (const auto& [key, value] : results[0].items()) keys.push_back(key);
  CHECK(keys == std::vector<std::string>{"config", "seq_len", "windows", "tokens", "nll", "nll_se", "ppl", "dense_nll",
                                         "dense_ppl", "kld_mean", "kld_se", "kld_p99", "top1", "kept_fraction",
                                         "skipped_fraction", "seconds_dense", "seconds_sparse"});
  for (const auto& result : results) {
    CHECK(result["windows"] == 3);  // 64: two of the first row and one of the second
    CHECK(result["tokens"] == 3 * (result["seq_len"].get<int>() - 1));
    CHECK_THAT(result["ppl"].get<double>(), WithinRel(std::exp(result["nll"].get<double>()), 1e-12));
    CHECK(result["kept_fraction"] < 1.0);
    CHECK(result["skipped_fraction"] == 0.0);
  }
  CHECK(results[1]["kld_mean"] > results[0]["kld_mean"]);
  CHECK(data["configs"]["SPARSE_SOFTMAX_1_4"]["sparse_cfg"]["*attn*"]["dense_window_size"] == 4);
}

TEST_CASE("one window has no standard error, and a kernel can be chosen") {
  const TemporaryDirectory directory;
  const std::string ids = write_json(directory / "ids.json", some_ids(40));
  const Json data =
      run_json(eval_arguments(ids, {"--seq_len", "40", "--sparse_attn", "sparse_softmax", "--kernel", "reference"}));
  CHECK(data["results"][0]["config"] == "SPARSE_SOFTMAX_DEFAULT");
  CHECK(data["results"][0]["nll_se"].is_null());
  CHECK(data["results"][0]["kld_se"].is_null());
  CHECK(data["results"][0]["kept_fraction"] == 1.0);  // the window of 64 covers everything
  CHECK(data["results"][0]["top1"] == 1.0);
}

TEST_CASE("0 of M is the dense model to the last bit") {
  const TemporaryDirectory directory;
  const std::string ids = write_json(directory / "ids.json", some_ids(80));
  const Json result = run_json(eval_arguments(
      ids, {"--seq-len", "80", "--config", "SPARSE_SOFTMAX_DEFAULT", "--set", "sparsity_n=0"}))["results"][0];
  CHECK(result["kld_mean"] == 0.0);
  CHECK(result["nll"] == result["dense_nll"]);
}

TEST_CASE("the table names each configuration under the dense figures, in 100 columns") {
  const TemporaryDirectory directory;
  const std::string ids = write_json(directory / "ids.json", some_ids(128));
  const ProgramResult result =
      run_program(eval_arguments(ids, {"--seq-len", "64", "--config", "SPARSE_SOFTMAX_SINK64_WINDOW1024"}));
  CHECK(result.exit_code == 0);
  CHECK(result.out.starts_with("2 windows of 64 tokens; dense: perplexity "));
  CHECK(result.out.find("\nSPARSE_SOFTMAX_SINK64_WINDOW1024  ") != std::string::npos);
}

TEST_CASE("eval --stats shows what each module skipped, for each length and configuration") {
  const TemporaryDirectory directory;
  const std::string ids = write_json(directory / "ids.json", some_ids(128));
  std::vector<std::string> more = {"--seq-len", "64,128", "--config", "SKIP_SOFTMAX_TRITON_DEFAULT", "--set", "br=8",
                                   "--set",     "bc=8",   "--set",    "skip_softmax_threshold=0.9"};
  const auto shown = [&](const std::string& tokens, const std::string& first_row) {
    return run_program(eval_arguments(ids, more))
               .out.find("\nSKIP_SOFTMAX_TRITON_DEFAULT, " + tokens +
                         " tokens\nmodule                    phase    blocks  skipped %  by head group  kept pairs %\n"
                         "------------------------  -------  ------  ---------  -------------  ------------\n"
                         "model.layers.0.self_attn  prefill  " +
                         first_row) != std::string::npos;
  };
  CHECK_FALSE(shown("64", ""));
  more.emplace_back("--stats");
  CHECK(shown("64", "   288  "));  // two windows of 8 x 9 / 2 blocks in four heads
  CHECK(shown("128", "   544  "));
  const Json data = run_json(eval_arguments(ids, more));
  REQUIRE(data["statistics"].size() == 2);
  REQUIRE(data["statistics"][1].size() == 2 * 2);  // modules, key heads
  CHECK(data["statistics"][1][0]["blocks_visible"] == 272);
  CHECK(data["statistics"][1][0]["blocks_skipped"] > 0);
  CHECK(data["statistics"][1][0]["blocks_skipped"] < 272);
  CHECK(data["thresholds"][1]["prefill"]["calibrated"] == 0);
}

TEST_CASE("without a configuration eval measures the dense model") {
  const TemporaryDirectory directory;
  const std::string ids = write_json(directory / "ids.json", some_ids(64));
  const Json data = run_json(eval_arguments(ids, {"--seq-len", "32"}));
  REQUIRE(data["results"].size() == 1);
  CHECK(data["results"][0]["config"].is_null());
  CHECK(data["results"][0]["kld_mean"].is_null());
}

TEST_CASE("fewer windows than asked for are said in the log") {
  const TemporaryDirectory directory;
  const std::string ids = write_json(directory / "ids.json", some_ids(70));
  const ProgramResult result = run_program(eval_arguments(ids, {"--seq-len", "32", "--windows", "5"}));
  CHECK(result.exit_code == 0);
  CHECK(result.err.find("windows of 32 tokens: 2 instead of 5, the text has no more") != std::string::npos);
}

TEST_CASE("a text that is too short is invalid data") {
  const TemporaryDirectory directory;
  const std::string ids = write_json(directory / "ids.json", some_ids(70));
  const ProgramResult result = run_program(eval_arguments(ids, {"--seq-len", "32,128"}));
  CHECK(result.exit_code == 3);
  CHECK(result.err == "modelopt: error: " + ids + ": has 70 tokens, expected at least the 128 of --seq-len\n");
  const ProgramResult text = run_program({"eval", "--model", tiny_model(), "--text", ids});
  CHECK(text.exit_code == 3);
  CHECK(text.err == "modelopt: error: " + tiny_model() +
                        ": holds no tokenizer.json, expected one, or --token-ids instead of --text\n");
}

TEST_CASE("a tokenizer that does not belong to the model is found out") {
  const TemporaryDirectory directory;
  std::filesystem::copy(tiny_model(), directory / "model");
  std::filesystem::copy_file(MODELOPT_TEST_DATA "/tokenizers/llama3/tokenizer.json",
                             directory / "model/tokenizer.json");
  const std::string text = directory.write("t.txt", "By the Rays of Light I understand its least Parts").string();
  const ProgramResult result =
      run_program({"eval", "--model", (directory / "model").string(), "--text", text, "--seq-len", "4"});
  CHECK(result.exit_code == 3);
  CHECK(result.err.find(": its tokenizer gives the token id ") != std::string::npos);
  CHECK(result.err.find(", expected ids below the model's vocabulary of 320\n") != std::string::npos);
}

TEST_CASE("data goes to a file whole, beside the table") {
  const TemporaryDirectory directory;
  const std::string ids = write_json(directory / "ids.json", some_ids(64));
  const std::string json = (directory / "r.json").string();
  const ProgramResult result =
      run_program(eval_arguments(ids, {"--seq-len", "32", "--config", "SPARSE_SOFTMAX_4_8", "--json", json}));
  CHECK(result.exit_code == 0);
  CHECK_FALSE(result.out.empty());
  CHECK(Json::parse(read_file(json))["results"][0]["config"] == "SPARSE_SOFTMAX_4_8");
}

}  // namespace
}  // namespace modelopt::test
