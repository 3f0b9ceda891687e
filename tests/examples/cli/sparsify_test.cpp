#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "examples/cli/program.h"
#include "modelopt/checkpoint/test_files.h"

namespace modelopt::test {
namespace {

using Json = nlohmann::ordered_json;

std::vector<std::string> sparsify_arguments(const TemporaryDirectory& directory, const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {
      "sparsify",         "--model", tiny_model(), "--token-ids", write_json(directory / "ids.json", some_ids(120)),
      "--max-new-tokens", "8"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST_CASE("sparsify shows the modules, the comparison and both continuations") {
  const TemporaryDirectory directory;
  const ProgramResult result = run_program(sparsify_arguments(directory, {"--config", "SPARSE_SOFTMAX_DEFAULT"}));
  INFO(result.err);
  CHECK(result.exit_code == 0);
  CHECK(result.out.find("2 of 2 attention modules are sparse") != std::string::npos);
  CHECK(result.out.find("KL divergence of the logits, mean") != std::string::npos);
  CHECK(result.out.find("top-1 agreement") != std::string::npos);
  CHECK(result.out.find("The prompt (120 tokens) continues") != std::string::npos);
  CHECK(result.out.find("dense                                            | sparse\n") != std::string::npos);
}

TEST_CASE("sparsify writes the same as data") {
  const TemporaryDirectory directory;
  const Json data =
      run_json(sparsify_arguments(directory, {"--config", "SPARSE_SOFTMAX_1_4", "--set", "dense_window_size=0"}));
  CHECK(data["config"] == "SPARSE_SOFTMAX_1_4");
  CHECK(data["configuration"]["sparse_cfg"]["*attn*"]["dense_window_size"] == 0);
  CHECK(data["modules"].size() == 2);
  CHECK(data["modules"][0]["method"] == "sparse_softmax");
  CHECK(data["prompt_tokens"] == 120);
  CHECK(data["comparison"]["kld_mean"] > 0.0);
  CHECK(data["comparison"]["kept_fraction"] < 0.3);
  CHECK(data["comparison"]["seconds_dense"] > 0.0);
  const Json& dense = data["generation"]["dense"]["ids"];
  const Json& sparse = data["generation"]["sparse"]["ids"];
  const auto [a, b] = std::mismatch(dense.begin(), dense.end(), sparse.begin(), sparse.end());
  if (a == dense.end() && b == sparse.end())
    CHECK(data["generation"]["first_difference"].is_null());
  else
    CHECK(data["generation"]["first_difference"] == a - dense.begin());
  CHECK(data["export"].is_null());
}

TEST_CASE("sparsify --stats shows what each module skipped of the prompt and of the continuation") {
  const TemporaryDirectory directory;
  std::vector<std::string> more = {"--config", "SKIP_SOFTMAX_TRITON_DEFAULT", "--set", "br=8", "--set", "bc=8",
                                   "--set",    "skip_softmax_threshold=0.9"};
  const std::string heading = "\nmodule                    phase    blocks  skipped %  by head group  kept pairs %\n";
  CHECK(run_program(sparsify_arguments(directory, more)).out.find(heading) == std::string::npos);
  more.emplace_back("--stats");
  const ProgramResult text = run_program(sparsify_arguments(directory, more));
  CHECK(text.out.find(heading) != std::string::npos);
  CHECK(text.out.find("\nmodel.layers.0.self_attn  prefill     480  ") != std::string::npos);
  const Json data = run_json(sparsify_arguments(directory, more));
  std::int64_t visible = 0, skipped = 0;
  for (const Json& group : data["statistics"]) {
    if (group["phase"] != "prefill") continue;
    visible += group["blocks_visible"].get<std::int64_t>();
    skipped += group["blocks_skipped"].get<std::int64_t>();
  }
  CHECK(visible == 2 * 480);
  CHECK(skipped > 0);
  CHECK(skipped < visible);
  CHECK(data["comparison"]["skipped_fraction"] == static_cast<double>(skipped) / static_cast<double>(visible));
  CHECK(data["statistics"].back()["phase"] == "decode");
}

TEST_CASE("sparsify --stats shows what trial thresholds would skip, in both phases") {
  const TemporaryDirectory directory;
  const auto arguments = [&](const std::string& prefill, const std::string& decode) {
    return sparsify_arguments(directory,
                              {"--config", "SKIP_SOFTMAX_TRITON_DEFAULT", "--set", "br=8", "--set", "bc=8", "--set",
                               R"(thresholds={"prefill": )" + prefill + R"(, "decode": )" + decode + "}", "--stats"});
  };
  const std::string text = run_program(arguments("[0.5, 0.9]", "[0.5, 0.95]")).out;
  CHECK(text.find("  kept pairs %  trial thresholds: skipped %\n") != std::string::npos);
  CHECK(text.find("  0.9: ") != std::string::npos);
  CHECK(text.find("  0.95: ") != std::string::npos);
  const Json with_trials = run_json(arguments("[0.5, 0.9]", "[0.5, 0.95]"))["statistics"];
  const Json applied = run_json(arguments("0.9", "0.5"))["statistics"];
  CHECK(applied[0]["trials"].empty());
  // the first layer sees the same prompt whatever is skipped
  REQUIRE(with_trials[0]["module"] == "model.layers.0.self_attn");
  CHECK(with_trials[0]["trials"][0]["threshold"] == 0.9);
  CHECK(with_trials[0]["trials"][0]["blocks_skipped"] == applied[0]["blocks_skipped"]);
  CHECK(with_trials[0]["trials"][0]["skipped_fraction"] == applied[0]["skipped_fraction"]);
  CHECK(with_trials[0]["blocks_skipped"] < applied[0]["blocks_skipped"]);
  std::int64_t visible = 0, skipped = 0, by_trial = 0;
  for (const Json& group : with_trials) {
    if (group["phase"] != "decode") continue;
    REQUIRE(group["trials"].size() == 1);
    CHECK(group["trials"][0]["threshold"] == 0.95);
    visible += group["blocks_visible"].get<std::int64_t>();
    skipped += group["blocks_skipped"].get<std::int64_t>();
    by_trial += group["trials"][0]["blocks_skipped"].get<std::int64_t>();
  }
  CHECK(skipped < by_trial);
  CHECK(by_trial < visible);
}

TEST_CASE("0 of M changes nothing") {
  const TemporaryDirectory directory;
  const Json data =
      run_json(sparsify_arguments(directory, {"--config", "SPARSE_SOFTMAX_DEFAULT", "--set", "sparsity_n=0"}));
  CHECK(data["comparison"]["kld_mean"] == 0.0);
  CHECK(data["generation"]["first_difference"].is_null());
  CHECK(data["generation"]["dense"] == data["generation"]["sparse"]);
}

TEST_CASE("sparsify needs a configuration, and one prompt of two tokens") {
  const TemporaryDirectory directory;
  const ProgramResult none = run_program(sparsify_arguments(directory, {}));
  CHECK(none.exit_code == 2);
  CHECK(none.err ==
        "modelopt: error: sparsify needs --config NAME|FILE, and " + tiny_model() + " carries none of its own\n");
  const ProgramResult one =
      run_program(sparsify_arguments(directory, {"--sparse_attn", "sparse_softmax", "--seq_len", "1"}));
  CHECK(one.exit_code == 2);
  CHECK(one.err == "modelopt: error: the prompt has 1 token, expected at least 2 to compare predictions on\n");
  const std::string rows = write_json(directory / "rows.json", Json::array({some_ids(5), some_ids(6)}));
  const ProgramResult two =
      run_program({"sparsify", "--model", tiny_model(), "--config", "SPARSE_SOFTMAX_DEFAULT", "--token-ids", rows});
  CHECK(two.exit_code == 2);
  CHECK(two.err == "modelopt: error: --token-ids " + rows + ": has 2 rows, expected one prompt\n");
}

TEST_CASE("a pattern that matches nothing is an error") {
  const TemporaryDirectory directory;
  const std::string config =
      write_json(directory / "c.json", Json::parse(R"({"sparse_cfg": {"*mlp*": {"method": "sparse_softmax"}}})"));
  const ProgramResult result = run_program(sparsify_arguments(directory, {"--config", config}));
  CHECK(result.exit_code == 2);
  CHECK(result.err.find("*mlp*") != std::string::npos);
}

}  // namespace
}  // namespace modelopt::test
