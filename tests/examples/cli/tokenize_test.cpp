#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <string>
#include <vector>

#include "examples/cli/program.h"

namespace modelopt::test {
namespace {

using Json = nlohmann::ordered_json;

const std::string kLlama3 = MODELOPT_TEST_DATA "/tokenizers/llama3";

ProgramResult tokenize(const std::string& input, const std::vector<std::string>& flags = {}) {
  std::vector<std::string> arguments = {"tokenize", "--model", kLlama3};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  return run_program(arguments, input);
}

TEST_CASE("tokenize goes there and back, a line for each line") {
  const ProgramResult there = tokenize("\"Hello, world\"\n\"\\u00e9t\\u00e9\\n\"\n\"\"");
  CHECK(there.exit_code == 0);
  const ProgramResult back = tokenize(there.out, {"--decode", "--skip-special"});
  CHECK(back.exit_code == 0);
  CHECK(back.out == "\"Hello, world\"\n\"été\\n\"\n\"\"\n");
}

TEST_CASE("special tokens are added as the post-processor says unless they are not wanted") {
  const Json with = Json::parse(tokenize("\"Hello\"").out);
  const Json without = Json::parse(tokenize("\"Hello\"", {"--no-special"}).out);
  REQUIRE(with.size() == without.size() + 1);
  CHECK(Json(with.begin() + 1, with.end()) == without);
  const std::string shown = Json::parse(tokenize(with.dump(), {"--decode"}).out);
  CHECK(shown != "Hello");
  CHECK(shown.ends_with("Hello"));
}

TEST_CASE("a malformed line ends the run with its number, after the lines before it") {
  const ProgramResult result = tokenize("\"a\"\n\"b\"\n[1]\n\"c\"\n");
  CHECK(result.exit_code == 3);
  CHECK(std::count(result.out.begin(), result.out.end(), '\n') == 2);
  CHECK(result.err == "modelopt: error: standard input, line 3: expected a JSON string\n");
  for (const char* line : {"", "a", "\"a", "\"\\ud800\"", "\"\xff\"", "\"a\" \"b\"", "7"}) {
    CAPTURE(line);
    const ProgramResult bad = tokenize(std::string(line) + "\n");
    CHECK(bad.exit_code == 3);
    CHECK(bad.err == "modelopt: error: standard input, line 1: expected a JSON string\n");
  }
}

TEST_CASE("decode refuses what is no array of known ids") {
  CHECK(tokenize("\"a\"\n", {"--decode"}).err ==
        "modelopt: error: standard input, line 1: expected a JSON array of token ids\n");
  CHECK(tokenize(std::string(1000000, '[') + std::string(1000000, ']') + "\n", {"--decode"}).err ==
        "modelopt: error: standard input, line 1: expected a JSON array of token ids\n");
  for (const char* line : {"[-1]", "[1.0]", "[\"1\"]", "[99999999]", "[18446744073709551615]"}) {
    CAPTURE(line);
    const ProgramResult result = tokenize(std::string(line) + "\n", {"--decode"});
    CHECK(result.exit_code == 3);
    CHECK(result.err.find(", expected a token id from 0 to ") != std::string::npos);
  }
}

TEST_CASE("no input gives no output, a missing tokenizer is invalid data") {
  const ProgramResult nothing = tokenize("");
  CHECK(nothing.exit_code == 0);
  CHECK(nothing.out.empty());
  const ProgramResult none = run_program({"tokenize", "--model", tiny_model()}, "\"a\"\n");
  CHECK(none.exit_code == 3);
  CHECK(none.err == "modelopt: error: " + tiny_model() + ": holds no tokenizer.json\n");
}

}  // namespace
}  // namespace modelopt::test
