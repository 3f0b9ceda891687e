#include <modelopt/config/schema.h>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <filesystem>

#include <modelopt/config/parse.h>
#include <modelopt/util/file.h>

using namespace modelopt;
using namespace modelopt::config;

TEST_CASE("configs/schema.json is what `ninja config_reference` writes") {
  CHECK(read_file(MODELOPT_SCHEMA) == configuration_schema().dump(2) + "\n");
}

TEST_CASE("every parameter has a title, a description, a default and a range in the schema") {
  const auto method = configuration_schema()["$defs"]["sparse_softmax"];
  for (const char* name : {"sparsity_n", "sparsity_m", "num_sink_tokens", "dense_sink_tokens", "dense_window_size",
                           "dense_recent_tokens"}) {
    CAPTURE(name);
    const auto& field = method["properties"][name];
    CHECK_FALSE(field.value("title", "").empty());
    CHECK_FALSE(field.value("description", "").empty());
    CHECK(field["default"].is_number_integer());
    CHECK((field.contains("enum") || (field["minimum"] == 0 && field["maximum"] > 0)));
  }
  CHECK(method["properties"]["dense_window_size"]["default"] == 64);
  CHECK(method["properties"]["sparsity_m"]["enum"] == nlohmann::ordered_json({4, 8}));
}

TEST_CASE("the schema describes the skip-softmax methods and the calibration block") {
  const auto schema = configuration_schema();
  const auto& skip = schema["$defs"]["skip_softmax"];
  CHECK(skip["properties"]["skip_softmax_threshold"]["exclusiveMaximum"] == 1);
  CHECK(skip["properties"]["skip_softmax_threshold"]["default"] == 0.1);
  CHECK(skip["properties"]["bc"]["multipleOf"] == 8);
  CHECK_FALSE(skip["properties"]["thresholds"].contains("default"));
  const auto& flash = schema["$defs"]["flash_skip_softmax"];
  CHECK(flash["properties"]["thresholds"]["default"].dump() == R"({"prefill":[0.001],"decode":[0.0001]})");
  CHECK(flash["properties"]["backend"]["enum"] == nlohmann::ordered_json({"eager", "pytorch"}));
  const auto& calibration = schema["properties"]["sparse_cfg"]["properties"]["calibration"]["properties"];
  CHECK(calibration["samples"]["default"] == 24);
  CHECK(calibration["threshold_trials"]["default"].size() == 16);
}

TEST_CASE("the reference in docs/configuration.md is what `ninja config_reference` writes") {
  CHECK(read_file(MODELOPT_CONFIGURATION_DOC).find(configuration_reference_markdown()) != std::string::npos);
}

TEST_CASE("the example of docs/configuration.md is valid") {
  const std::string text = read_file(MODELOPT_CONFIGURATION_DOC), fence = "```json\n";
  const std::size_t begin = text.find(fence) + fence.size();
  const auto config = parse_config(text.substr(begin, text.find("```", begin) - begin), "docs/configuration.md");
  REQUIRE(config.rules.size() == 2);
  CHECK(std::get<SparseSoftmaxConfig>(config.rules[0].rule.method.value()).dense_window_size == 256);
}
