#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>

#include <filesystem>
#include <string>
#include <vector>

#include <modelopt/util/file.h>

#include "examples/cli/program.h"
#include "modelopt/checkpoint/test_files.h"

namespace modelopt::test {
namespace {

using Json = nlohmann::ordered_json;

// A benchmark of a few milliseconds.
std::vector<std::string> bench(const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {"bench", "--heads",  "2", "--kv-heads", "1",    "--head-dim",
                                        "16",    "--rounds", "2", "--min-time", "0.001"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

std::string usage_error(const std::vector<std::string>& more) {
  const ProgramResult result = run_program(bench(more));
  CHECK(result.exit_code == 2);
  CHECK(result.out.empty());
  return result.err;
}

TEST_CASE("bench writes a row for each length and candidate with the documented keys") {
  const Json data = run_json(bench({"--seq-len", "32,64", "--patterns", "dense,2:4", "--window", "8", "--sinks", "2"}));
  CHECK(data["device"] == "cpu");
  CHECK(data["dtype"] == "float32");
  CHECK(data["heads"] == 2);
  CHECK(data["kv_heads"] == 1);
  CHECK(data["dense_window_size"] == 8);
  CHECK(data["num_sink_tokens"] == 2);
  CHECK(data["unit"] == "GFLOP/s");
  CHECK(data["baseline"] == "best-sdpa");
  REQUIRE(data["results"].size() == 8);
  std::vector<std::string> candidates;
  for (const Json& row : data["results"]) {
    candidates.push_back(row["candidate"]);
    std::vector<std::string> keys;
    for (const auto& [key, value] : row.items()) keys.push_back(key);
    CHECK(keys == std::vector<std::string>{"seq_len", "candidate", "not_run", "seconds", "seconds_min", "seconds_max",
                                           "rate", "rate_min", "rate_max", "ratio", "of_copy", "difference",
                                           "sm_clock_mhz"});
    CHECK(row["not_run"].is_null());
    CHECK(row["sm_clock_mhz"].is_null());
  }
  CHECK(candidates == std::vector<std::string>{"sdpa/flash", "sdpa/math", "cpu/dense", "cpu/2:4", "sdpa/flash",
                                               "sdpa/math", "cpu/dense", "cpu/2:4"});
}

TEST_CASE("bench shows a table, and writes data and a plot beside it") {
  const TemporaryDirectory directory;
  const std::string json = (directory / "r.json").string();
  const std::string svg = (directory / "r.svg").string();
  const ProgramResult result = run_program(
      bench({"--seq-len", "32,48", "--patterns", "dense", "--json", json, "--svg", svg, "--baseline", "sdpa/math"}));
  CHECK(result.exit_code == 0);
  CHECK(result.err.empty());
  CHECK(result.out.find(": float32, 2/1 heads of 16, causal, patterns with 0 sinks and a window of 64\n") !=
        std::string::npos);
  CHECK(result.out.find("\n48 keys, ratio to sdpa/math\ncandidate   GFLOP/s") != std::string::npos);
  CHECK(result.out.find("\ncpu/dense ") != std::string::npos);
  CHECK(Json::parse(read_file(json))["results"].size() == 6);
  CHECK(read_file(svg).find(">cpu/dense<") != std::string::npos);
}

TEST_CASE("bench --backward measures forward and backward, of PyTorch's attention too") {
  const Json data = run_json(bench({"--backward", "--seq-len", "48", "--patterns", "dense,2:4", "--window", "8"}));
  CHECK(data["backward"] == true);
  REQUIRE(data["results"].size() == 4);
  for (const Json& row : data["results"]) {
    INFO(row.dump());
    CHECK(row["not_run"].is_null());
    const double operations = 3.5 * 4 * 48 * 48 * 2 * 16 / 2;  // 2 heads of 16, causal
    CHECK(row["rate"].get<double>() * row["seconds"].get<double>() * 1e9 == Catch::Approx(operations));
  }
  CHECK(data["results"][2]["difference"].get<double>() < 1e-5);
  CHECK(usage_error({"--backward", "--decode"}).find("--backward: decode has no backward") != std::string::npos);
}

TEST_CASE("decode is measured in bytes, beside a copy") {
  const Json data = run_json(bench({"--decode", "--seq-len", "64", "--batch", "3", "--dtype", "bfloat16"}));
  CHECK(data["unit"] == "GB/s");
  CHECK(data["dtype"] == "bfloat16");
  REQUIRE(data["results"].size() == 4);
  CHECK(data["results"][2]["candidate"] == "cpu/dense");
  CHECK(data["results"][2]["of_copy"] > 0.0);
  CHECK(data["results"][3]["candidate"] == "copy");
  CHECK(data["results"][3]["of_copy"] == 1.0);
}

TEST_CASE("a kernel can be named, and one that cannot run is said before anything is measured") {
  const Json data =
      run_json(bench({"--kernel", "reference", "--seq-len", "16", "--patterns", "4:8", "--no-causal", "--quiet"}));
  CHECK(data["results"][2]["candidate"] == "reference/4:8");
  CHECK(data["causal"] == false);
  const ProgramResult result = run_program(bench({"--kernel", "sm90"}));
  CHECK(result.exit_code == 4);
  CHECK(result.err.starts_with("modelopt: error: backend \"sm90\" cannot run attention on CPU tensors"));
}

TEST_CASE("bench refuses what contradicts itself") {
  CHECK(run_program({"bench", "--heads", "4", "--kv-heads", "3"}).err ==
        "modelopt: error: --heads 4: expected a multiple of --kv-heads 3\n");
  CHECK(usage_error({"--patterns", "2:5"}) ==
        "modelopt: error: --patterns: pattern 2:5: expected dense, or N:M with M 4 or 8 and 1 <= N < M\n");
  CHECK(usage_error({"--patterns", "2:4,2:4"}) == "modelopt: error: --patterns: 2:4 is given twice\n");
  CHECK(usage_error({"--decode", "--patterns", "2:4"}) ==
        "modelopt: error: --patterns: decode is always dense, expected none with --decode\n");
  CHECK(usage_error({"--backend", "eager"}) ==
        "modelopt: error: --backend eager: bench measures the operator, expected auto or fused\n");
  CHECK(usage_error({"--seq-len", "16", "--baseline", "sdpa/cudnn"}).find("--baseline sdpa/cudnn: expected one of ") !=
        std::string::npos);
  CHECK(usage_error({"--svg", "/nowhere/x.svg"}).find("--svg /nowhere/x.svg: there is no directory") !=
        std::string::npos);
  CHECK(usage_error({"--seq-len", "16,32,16"}) == "modelopt: error: --seq-len: 16 is given twice\n");
  CHECK(usage_error({"--seq-len", "0"}).find("--seq-len") != std::string::npos);
}

}  // namespace
}  // namespace modelopt::test
