#include <modelopt/util/ordered_json.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <nlohmann/json.hpp>

#include <modelopt/error.h>

namespace modelopt {
namespace {

using Catch::Matchers::Message;
using Catch::Matchers::MessageMatches;
using Catch::Matchers::StartsWith;
using nlohmann::ordered_json;

TEST_CASE("members keep the order of the text") {
  const ordered_json value =
      parse_ordered_json(R"({"z": 1, "a": [true, null, "x"], "m": {"b": -2, "a": 1.5}})", "t.json");
  CHECK(value.dump() == R"({"z":1,"a":[true,null,"x"],"m":{"b":-2,"a":1.5}})");
  CHECK(value["z"].is_number_unsigned());
  CHECK(value["m"]["b"].is_number_integer());
  CHECK(value["m"]["a"].is_number_float());
}

TEST_CASE("scalars and empty containers are documents") {
  CHECK(parse_ordered_json(" 3 ", "t.json") == 3);
  CHECK(parse_ordered_json("{}", "t.json") == ordered_json::object());
  CHECK(parse_ordered_json("[]", "t.json") == ordered_json::array());
}

TEST_CASE("a duplicate key is an error that names its path") {
  CHECK_THROWS_MATCHES(parse_ordered_json(R"({"a": 1, "a": 1})", "t.json"), DataError,
                       Message("t.json: $.a: the key occurs twice"));
  CHECK_THROWS_MATCHES(parse_ordered_json(R"({"a": [0, {"*x": {"n": 1, "m": 2, "n": 3}}]})", "t.json"), DataError,
                       Message(R"(t.json: $.a[1]["*x"].n: the key occurs twice)"));
  CHECK_NOTHROW(parse_ordered_json(R"({"a": {"b": 1}, "b": {"b": 1}})", "t.json"));
}

TEST_CASE("duplicates can be collected: the first value stays, and nested ones are found in dropped values too") {
  std::vector<std::string> duplicates;
  const ordered_json value = parse_ordered_json(
      R"({"a": {"x": 1, "x": 2}, "b": 1, "a": {"y": 1, "y": {"z": 0, "z": 1}}, "a": 7, "c": [{"k": 0, "k": 1}]})",
      "t.json", duplicates);
  CHECK(value.dump() == R"({"a":{"x":1},"b":1,"c":[{"k":0}]})");
  CHECK(duplicates == std::vector<std::string>{"$.a.x", "$.a", "$.a.y", "$.a.y.z", "$.a", "$.c[0].k"});
}

TEST_CASE("a syntax error says where it is and what is wrong") {
  // what follows the place is the JSON library's own wording
  const auto starts = [](const char* text) { return MessageMatches(StartsWith(text)); };
  CHECK_THROWS_MATCHES(parse_ordered_json("{\"a\": 1,\n \"b\": [1, 2,, 3]}", "t.json"), DataError,
                       starts("t.json: line 2, column 13: in $.b[2]: syntax error"));
  CHECK_THROWS_MATCHES(parse_ordered_json("{\"a\": 1} x", "t.json"), DataError,
                       starts("t.json: line 1, column 10: in $: syntax error"));
  CHECK_THROWS_MATCHES(parse_ordered_json("", "t.json"), DataError, starts("t.json: line 1, column 1: in $: "));
  CHECK_THROWS_MATCHES(parse_ordered_json("{\"a\": \"\xff\"}", "t.json"), DataError,
                       starts("t.json: line 1, column 8: in $.a: syntax error"));
}

TEST_CASE("what follows a NUL byte is not overlooked") {
  using namespace std::string_view_literals;
  CHECK_THROWS_MATCHES(parse_ordered_json("{}\0{"sv, "t.json"), DataError,
                       Message("t.json: line 1, column 3: a NUL byte, expected JSON"));
}

TEST_CASE("nesting is limited") {
  const std::string within = std::string(kMaxJsonDepth, '[') + std::string(kMaxJsonDepth, ']');
  CHECK_NOTHROW(parse_ordered_json(within, "t.json"));
  std::string path = "$";
  for (std::size_t level = 0; level < kMaxJsonDepth; ++level) path += "[0]";
  CHECK_THROWS_MATCHES(parse_ordered_json("[" + within + "]", "t.json"), DataError,
                       Message("t.json: " + path + ": nested deeper than 64 levels"));
}

TEST_CASE("a path quotes keys that are no plain names") {
  CHECK(json_path("$", "rope_theta") == "$.rope_theta");
  CHECK(json_path("$", "*.self_attn") == R"($["*.self_attn"])");
  CHECK(json_path("$.a", "say \"hi\"") == R"($.a["say \"hi\""])");
  CHECK(json_path("$", "") == R"($[""])");
  CHECK(json_path("$.layer_types", 3) == "$.layer_types[3]");
}

}  // namespace
}  // namespace modelopt
