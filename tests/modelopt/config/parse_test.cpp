#include <modelopt/config/parse.h>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>

#include <modelopt/config/method_descriptor.h>
#include <modelopt/util/file.h>

using namespace modelopt;
using namespace modelopt::config;

namespace {

SparseAttentionConfig parse(const std::string& json) { return parse_config(json, "test"); }

// The message of the ConfigError.
std::string message_of(const std::string& json) {
  try {
    (void)parse(json);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

// A configuration with one rule for "*attn*" that has these members.
std::string rule(const std::string& members) { return R"({"sparse_cfg": {"*attn*": {)" + members + "}}}"; }
std::string sparse(const std::string& members) { return rule(R"("method": "sparse_softmax", )" + members); }

const std::string kRule = R"(test: $.sparse_cfg["*attn*"])";
const std::string kMethods =
    "sparse_softmax, triton_sparse_softmax, skip_softmax, triton_skip_softmax or flash_skip_softmax";

}  // namespace

TEST_CASE("a file with upstream's older names loads unchanged") {
  const auto config = load_config_file(MODELOPT_TEST_DATA "/configs/upstream_older_names.json");
  REQUIRE(config.rules.size() == 1);
  CHECK(config.rules[0].pattern == "*attn*");
  CHECK(config.rules[0].rule.enable);
  CHECK(config.rules[0].rule.method == MethodConfig(SparseSoftmaxConfig{}));
  CHECK_FALSE(config.default_rule.enable);
}

TEST_CASE("a file with upstream's newer names loads unchanged, and says the same") {
  CHECK(load_config_file(MODELOPT_TEST_DATA "/configs/upstream_newer_names.json") ==
        load_config_file(MODELOPT_TEST_DATA "/configs/upstream_older_names.json"));
}

TEST_CASE("every parameter is read, under its name and its alias") {
  const SparseSoftmaxConfig expected{
      .sparsity_n = 5, .sparsity_m = 8, .num_sink_tokens = 3, .dense_window_size = 0, .backend = MethodBackend::kEager};
  CHECK(
      parse(
          sparse(
              R"("sparsity_n": 5, "sparsity_m": 8, "num_sink_tokens": 3, "dense_window_size": 0, "backend": "eager")"))
          .rules[0]
          .rule.method == MethodConfig(expected));
  CHECK(
      parse(
          sparse(
              R"("backend": "pytorch", "dense_recent_tokens": 0, "dense_sink_tokens": 3, "sparsity_m": 8, "sparsity_n": 5)"))
          .rules[0]
          .rule.method == MethodConfig(expected));
}

TEST_CASE("absent parameters are those of the struct") {
  CHECK(parse(rule(R"("method": "sparse_softmax")")).rules[0].rule ==
        Rule{.enable = true, .method = SparseSoftmaxConfig{}});
}

TEST_CASE("rules keep the order of the file, and the default is apart") {
  const auto config = parse(R"({"sparse_cfg": {"z": {"enable": false}, "default": {"method": "sparse_softmax"},
                                               "a": {"enable": false}, "m": {"method": "sparse_softmax", "enable": false}}})");
  REQUIRE(config.rules.size() == 3);
  CHECK(config.rules[0] == PatternRule{.pattern = "z", .rule = {}});
  CHECK(config.rules[1].pattern == "a");
  CHECK(config.rules[2] == PatternRule{.pattern = "m", .rule = {.enable = false, .method = SparseSoftmaxConfig{}}});
  CHECK(config.default_rule == Rule{.enable = true, .method = SparseSoftmaxConfig{}});
}

TEST_CASE("name, description and $schema are allowed") {
  const auto config = parse(R"({"$schema": "schema.json", "name": "x", "description": "y", "sparse_cfg": {}})");
  CHECK(config.name == "x");
  CHECK(config.description == "y");
  CHECK(config.rules.empty());
}

TEST_CASE("parse_config of to_json gives an equal configuration") {
  const auto config = parse(R"({"name": "n", "description": "d", "sparse_cfg": {
      "b*": {"method": "triton_sparse_softmax", "sparsity_n": 1, "dense_sink_tokens": 7, "enable": false},
      "a*": {"method": "sparse_softmax", "backend": "eager"}, "c": {"enable": false}, "default": {"method": "sparse_softmax"}}})");
  CHECK(parse(to_json(config).dump()) == config);
  CHECK(
      to_json(config)["sparse_cfg"]["b*"].dump() ==
      R"({"method":"sparse_softmax","sparsity_n":1,"sparsity_m":4,"num_sink_tokens":7,"dense_window_size":64,"backend":"fused","enable":false})");
}

TEST_CASE("values of a wrong type are not converted") {
  CHECK(message_of(sparse(R"("sparsity_n": "2")")) == kRule + R"(.sparsity_n: "2", expected an integer from 0 to 7)");
  CHECK(message_of(sparse(R"("sparsity_n": 2.0)")) == kRule + ".sparsity_n: 2.0, expected an integer from 0 to 7");
  CHECK(message_of(sparse(R"("sparsity_m": true)")) == kRule + ".sparsity_m: true, expected 4 or 8");
  CHECK(message_of(sparse(R"("sparsity_m": [4])")) == kRule + ".sparsity_m: [4], expected 4 or 8");
  CHECK(message_of(sparse(R"("num_sink_tokens": null)")) ==
        kRule + ".num_sink_tokens: null, expected an integer from 0 to 2147483647");
  CHECK(message_of(sparse(R"("dense_window_size": 18446744073709551615)")) ==
        kRule + ".dense_window_size: 18446744073709551615, expected an integer from 0 to 2147483647");
  CHECK(message_of(sparse(R"("enable": 1)")) == kRule + ".enable: 1, expected true or false");
  CHECK(message_of(sparse(R"("enable": "true")")) == kRule + R"(.enable: "true", expected true or false)");
  CHECK(message_of(rule(R"("method": 3)")) == kRule + ".method: 3, expected a string");
  CHECK(message_of(R"({"sparse_cfg": {"*attn*": []}})") == kRule + ": [], expected an object");
  CHECK(message_of(R"({"sparse_cfg": []})") == "test: $.sparse_cfg: [], expected an object");
  CHECK(message_of(R"({"sparse_cfg": {}, "name": 1})") == "test: $.name: 1, expected a string");
  CHECK(message_of(R"({"sparse_cfg": {}, "description": {}})") == "test: $.description: {}, expected a string");
  CHECK(message_of("[]") == "test: $: [], expected an object");
}

TEST_CASE("values out of range are refused") {
  CHECK(message_of(sparse(R"("sparsity_m": 5)")) == kRule + ".sparsity_m: 5, expected 4 or 8");
  CHECK(message_of(sparse(R"("sparsity_m": 0)")) == kRule + ".sparsity_m: 0, expected 4 or 8");
  CHECK(message_of(sparse(R"("sparsity_n": 4)")) ==
        kRule + ".sparsity_n: 4, expected an integer from 0 to 3 (less than sparsity_m = 4)");
  CHECK(message_of(sparse(R"("sparsity_n": 8, "sparsity_m": 8)")) ==
        kRule + ".sparsity_n: 8, expected an integer from 0 to 7 (less than sparsity_m = 8)");
  CHECK(message_of(sparse(R"("sparsity_n": -1)")) ==
        kRule + ".sparsity_n: -1, expected an integer from 0 to 3 (less than sparsity_m = 4)");
  CHECK(message_of(sparse(R"("num_sink_tokens": -1)")) ==
        kRule + ".num_sink_tokens: -1, expected an integer from 0 to 2147483647");
  CHECK(message_of(sparse(R"("dense_sink_tokens": -1)")) ==
        kRule + ".dense_sink_tokens: -1, expected an integer from 0 to 2147483647");
  CHECK(message_of(sparse(R"("dense_window_size": -64)")) ==
        kRule + ".dense_window_size: -64, expected an integer from 0 to 2147483647");
  CHECK(message_of(sparse(R"("dense_recent_tokens": 2147483648)")) ==
        kRule + ".dense_recent_tokens: 2147483648, expected an integer from 0 to 2147483647");
}

TEST_CASE("N = 0 and the largest values are in range") {
  CHECK_NOTHROW(parse(sparse(R"("sparsity_n": 0)")));
  CHECK_NOTHROW(parse(sparse(R"("sparsity_n": 7, "sparsity_m": 8)")));
  CHECK_NOTHROW(parse(sparse(R"("num_sink_tokens": 2147483647, "dense_window_size": 2147483647)")));
}

TEST_CASE("a bound that is wrong itself is not blamed on the bounded field") {
  CHECK(message_of(sparse(R"("sparsity_n": 6, "sparsity_m": "8")")) == kRule + R"(.sparsity_m: "8", expected 4 or 8)");
  CHECK(message_of(sparse(R"("sparsity_n": 6, "sparsity_m": 16)")) == kRule + ".sparsity_m: 16, expected 4 or 8");
}

TEST_CASE("unknown keys are named, with those that exist") {
  CHECK(
      message_of(sparse(R"("sparsity": 2)")) ==
      kRule +
          ".sparsity: unknown key (value 2), expected method, enable, backend, sparsity_n, sparsity_m, num_sink_tokens "
          "or dense_window_size");
  CHECK(message_of(R"({"sparse_cfg": {}, "quant_cfg": {}})") ==
        "test: $.quant_cfg: unknown key (value {}), expected sparse_cfg, name, description or $schema");
  CHECK(message_of(rule(R"("enable": false, "sparsity_n": 2)")) ==
        kRule + ".sparsity_n: unknown key (value 2), expected method, enable, or a method that takes this parameter");
  CHECK(
      message_of(R"({"*attn*": {"enable": false}})") ==
      "test: $[\"*attn*\"]: unknown key (value {\"enable\":false}), expected sparse_cfg, name, description or $schema\n"
      "test: $.sparse_cfg: missing, expected an object of patterns");
}

TEST_CASE("keys that occur twice are named, on every level") {
  CHECK(message_of(sparse(R"("sparsity_n": 2, "sparsity_n": 2)")) ==
        kRule + ".sparsity_n: the key occurs twice, expected it once");
  CHECK(message_of(R"({"sparse_cfg": {"*": {"enable": false}, "*": {"enable": false}}})") ==
        R"(test: $.sparse_cfg["*"]: the key occurs twice, expected it once)");
  CHECK(message_of(R"({"sparse_cfg": {}, "sparse_cfg": {}})") ==
        "test: $.sparse_cfg: the key occurs twice, expected it once");
}

TEST_CASE("a field together with its alias is an error that names both") {
  CHECK(message_of(sparse(R"("num_sink_tokens": 4, "dense_sink_tokens": 4)")) ==
        kRule + ".dense_sink_tokens: 4, expected either num_sink_tokens or its alias dense_sink_tokens, not both");
  CHECK(message_of(sparse(R"("dense_recent_tokens": 8, "dense_window_size": 4)")) ==
        kRule +
            ".dense_recent_tokens: 8, expected either dense_window_size or its alias dense_recent_tokens, not both");
}

TEST_CASE("a method that does not exist is an error that lists those that do") {
  CHECK(message_of(rule(R"("method": "sparse24")")) == kRule + R"(.method: "sparse24", expected )" + kMethods);
  CHECK(message_of(rule("")) == kRule + ".method: missing, expected " + kMethods + R"(, or "enable": false)");
  CHECK(message_of(R"({"sparse_cfg": {"default": {"enable": true}}})") ==
        "test: $.sparse_cfg.default.method: missing, expected " + kMethods + R"(, or "enable": false)");
}

TEST_CASE("methods of others are refused with the reason") {
  CHECK(message_of(rule(R"("method": "vsa")")) ==
        kRule +
            ".method: \"vsa\" is not supported: video sparse attention needs a model's video layout, and these are "
            "language models, expected " +
            kMethods);
}

TEST_CASE("a method with a backend that it cannot use is refused") {
  CHECK(message_of(rule(R"("method": "triton_sparse_softmax", "backend": "eager")")) ==
        kRule + R"(.backend: "eager", expected fused or triton with method triton_sparse_softmax)");
  CHECK(message_of(rule(R"("method": "triton_sparse_softmax", "backend": "pytorch")")) ==
        kRule + R"(.backend: "pytorch", expected fused or triton with method triton_sparse_softmax)");
  CHECK(message_of(sparse(R"("backend": "cuda")")) ==
        kRule + R"(.backend: "cuda", expected fused, triton, eager or pytorch with method sparse_softmax)");
  CHECK(message_of(sparse(R"("backend": 1)")) ==
        kRule + ".backend: 1, expected fused, triton, eager or pytorch with method sparse_softmax");
}

TEST_CASE("a calibration inside a pattern is misplaced") {
  CHECK(message_of(sparse(R"("calibration": {})")) ==
        kRule +
            ".calibration: {} inside a pattern, expected calibration beside the patterns, at $.sparse_cfg.calibration");
}

TEST_CASE("malformed patterns are refused") {
  CHECK(message_of(R"({"sparse_cfg": {"*[attn*": {"enable": false}}})") ==
        R"(test: $.sparse_cfg["*[attn*"]: a pattern with '[' that is never closed, )"
        "expected a shell-style pattern of module names, or a class name");
  CHECK(message_of(R"({"sparse_cfg": {"": {"enable": false}}})") ==
        R"(test: $.sparse_cfg[""]: an empty pattern, expected a shell-style pattern of module names, or a class name)");
}

TEST_CASE("all problems of a text are reported together, a line each") {
  CHECK(message_of(R"({"nome": "x", "sparse_cfg": {
          "*attn*": {"method": "sparse_softmax", "sparsity_m": 6, "num_sink_tokens": -2, "num_sink_tokens": 1, "backend": "gpu"},
          "[": {"method": "topk", "enable": 0}}})") ==
        "test: $.sparse_cfg[\"*attn*\"].num_sink_tokens: the key occurs twice, expected it once\n"
        "test: $.nome: unknown key (value \"x\"), expected sparse_cfg, name, description or $schema\n"
        "test: $.sparse_cfg[\"*attn*\"].backend: \"gpu\", expected fused, triton, eager or pytorch with method "
        "sparse_softmax\n"
        "test: $.sparse_cfg[\"*attn*\"].sparsity_m: 6, expected 4 or 8\n"
        "test: $.sparse_cfg[\"*attn*\"].num_sink_tokens: -2, expected an integer from 0 to 2147483647\n"
        "test: $.sparse_cfg[\"[\"]: a pattern with '[' that is never closed, expected a shell-style pattern of module "
        "names, or "
        "a class name\n"
        "test: $.sparse_cfg[\"[\"].enable: 0, expected true or false\n"
        "test: $.sparse_cfg[\"[\"].method: \"topk\", expected " +
            kMethods);
}

TEST_CASE("long values are cut in messages") {
  CHECK(message_of(R"({"sparse_cfg": ")" + std::string(200, 'x') + "\"}") ==
        "test: $.sparse_cfg: \"" + std::string(59, 'x') + "…, expected an object");
}

TEST_CASE("text that is no JSON, and files that cannot be read, are configuration errors") {
  CHECK(message_of(R"({"sparse_cfg": )").starts_with("test: line 1, column "));
  CHECK_THROWS_AS(load_config_file(MODELOPT_TEST_DATA "/configs/absent.json"), ConfigError);
}

TEST_CASE("validate() finds in a struct what parsing finds in JSON") {
  const auto problems = validate(SparseSoftmaxConfig{.sparsity_n = 4, .num_sink_tokens = -1});
  REQUIRE(problems.size() == 2);
  CHECK(problems[0].field == "sparsity_n");
  CHECK(problems[0].expectation == "an integer from 0 to 3 (less than sparsity_m = 4)");
  CHECK(problems[1].field == "num_sink_tokens");
  CHECK(problems[1].value == "-1");
  CHECK(validate(SparseSoftmaxConfig{}).empty());
}
