#include <catch2/catch_test_macros.hpp>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <modelopt/util/file.h>

#include "examples/cli/program.h"
#include "modelopt/checkpoint/test_files.h"

namespace modelopt::test {
namespace {

using Json = nlohmann::ordered_json;

Json header_of(const std::string& path) {
  const std::string bytes = read_file(path);
  std::uint64_t size = 0;
  std::memcpy(&size, bytes.data(), sizeof size);
  return Json::parse(bytes.substr(sizeof size, size));
}

std::string error_of(const Json& ids) {
  const TemporaryDirectory directory;
  const std::string file = write_json(directory / "ids.json", ids);
  const ProgramResult result =
      run_program({"logits", "--model", tiny_model(), "--token-ids", file, "--out", (directory / "o").string()});
  CHECK(result.exit_code == 3);
  CHECK_FALSE(std::filesystem::exists(directory / "o"));
  const std::string prefix = "modelopt: error: " + file + ": ";
  REQUIRE(result.err.starts_with(prefix));
  return result.err.substr(prefix.size(), result.err.size() - prefix.size() - 1);
}

TEST_CASE("rows of one length give one tensor in fp32, even from a bf16 model") {
  const TemporaryDirectory directory;
  const std::string ids = write_json(directory / "ids.json", Json::array({some_ids(5), some_ids(5)}));
  const std::string out = (directory / "l.safetensors").string();
  const ProgramResult result =
      run_program({"logits", "--model", tiny_model("llama_bf16"), "--token-ids", ids, "--out", out});
  CHECK(result.exit_code == 0);
  CHECK(result.out == out + ": logits [2, 5, 320] float32\n");
  CHECK(header_of(out)["logits"]["dtype"] == "F32");
  CHECK(header_of(out)["logits"]["shape"] == Json{2, 5, 320});
}

TEST_CASE("a flat array is one row; rows of different lengths have a tensor each") {
  const TemporaryDirectory directory;
  const std::string out = (directory / "l.safetensors").string();
  const Json one = run_json(
      {"logits", "--model", tiny_model(), "--token-ids", write_json(directory / "a.json", some_ids(4)), "--out", out});
  CHECK(one["tensors"] == Json{{"logits", {1, 4, 320}}});
  const Json rows = Json::array({some_ids(4), some_ids(7)});
  const Json two = run_json(
      {"logits", "--model", tiny_model(), "--token-ids", write_json(directory / "b.json", rows), "--out", out});
  CHECK(two["tensors"] == Json{{"logits.0", {4, 320}}, {"logits.1", {7, 320}}});
  CHECK(header_of(out).contains("logits.1"));
}

TEST_CASE("a configuration changes the logits, 0 of M does not") {
  const TemporaryDirectory directory;
  const std::string ids = write_json(directory / "ids.json", some_ids(90));
  const auto logits = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {
        "logits", "--model", tiny_model(), "--token-ids", ids, "--out", (directory / "o").string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    REQUIRE(run_program(arguments).exit_code == 0);
    return read_file(directory / "o");
  };
  const std::string dense = logits({});
  CHECK(logits({"--config", "SPARSE_SOFTMAX_1_4"}) != dense);
  CHECK(logits({"--config", "SPARSE_SOFTMAX_1_4", "--set", "sparsity_n=0"}) == dense);
  CHECK(logits({"--dense"}) == dense);
  CHECK(logits({"--threads", "1"}) == logits({"--threads", "2"}));
}

TEST_CASE("token ids are checked element by element") {
  CHECK(error_of({1, 2, 320}) == "$[2]: 320, expected a token id from 0 to 319 (the model's vocabulary)");
  CHECK(error_of({1, -1}) == "$[1]: -1, expected a token id from 0 to 319 (the model's vocabulary)");
  CHECK(error_of({1, 2.5}) == "$[1]: 2.5, expected a token id from 0 to 319 (the model's vocabulary)");
  CHECK(error_of(Json::array({Json{1}, Json{2, true}})) ==
        "$[1][1]: true, expected a token id from 0 to 319 (the model's vocabulary)");
  CHECK(error_of(Json::array({Json{1}, 2})) == "$[1]: 2, expected an array of token ids like the first element");
  CHECK(error_of(Json::array()) == "$: is empty, expected at least one token id");
  CHECK(error_of(Json::array({Json::array()})) == "$[0]: is empty, expected at least one token id");
  CHECK(error_of("text") == "$: is string, expected an array of token ids or an array of such arrays");
}

TEST_CASE("a file of token ids that is missing or no JSON is invalid data") {
  const TemporaryDirectory directory;
  directory.write("bad.json", "[1, 2");
  for (const char* name : {"missing.json", "bad.json"}) {
    const ProgramResult result = run_program({"logits", "--model", tiny_model(), "--token-ids",
                                              (directory / name).string(), "--out", (directory / "o").string()});
    CHECK(result.exit_code == 3);
    CHECK(result.err.find(name) != std::string::npos);
  }
}

}  // namespace
}  // namespace modelopt::test
