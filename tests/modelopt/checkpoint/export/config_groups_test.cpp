#include <modelopt/checkpoint/export/config_groups.h>

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <map>
#include <string>

#include <modelopt/error.h>
#include <modelopt/util/file.h>

namespace modelopt::checkpoint {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

const fs::path kFiles = MODELOPT_TEST_DATA "/sparse_attention_config";

Json read_json(const fs::path& file) { return Json::parse(read_file(file)); }

// What a file says, in the newest form.
Json newest(const std::string& file) { return to_json(read_config_groups(read_json(kFiles / file), "config.json")); }

Json skip_softmax_group(const Json& factors, const Json& targets) {
  Json with_formula = {{"formula", "a * exp(b * target_sparsity)"}};
  with_formula.update(factors);
  return {{"algorithm", "skip_softmax"},
          {"targets", {"LlamaAttention"}},
          {"ignore", Json::array()},
          {"threshold_scale_factor", with_formula},
          {"target_sparsity", targets}};
}

std::string error_of(const Json& sparsity) {
  try {
    (void)read_config_groups(sparsity, "config.json");
  } catch (const DataError& error) {
    return error.what();
  }
  return "no error";
}

const Json kPrefill = {{"a", 7.93}, {"b", 8.61}};
const Json kDecode = {{"a", 0.12}, {"b", 9.85}};

TEST_CASE("the newest generation is written as it was read") {
  Json expected = read_json(kFiles / "newest.json")["config_groups"];
  Json& group = expected["group_1"];
  group = {{"algorithm", group["algorithm"]},
           {"targets", group["targets"]},
           {"ignore", Json::array()},
           {"sparsity_n", group["sparsity_n"]},
           {"sparsity_m", group["sparsity_m"]},
           {"dense_sink_tokens", group["dense_sink_tokens"]},
           {"dense_recent_tokens", group["dense_recent_tokens"]}};
  CHECK(newest("newest.json").dump() == expected.dump());
}

TEST_CASE("what a group may leave out has Model-Optimizer's defaults") {
  CHECK(newest("least.json") ==
        Json{{"group_0", skip_softmax_group({{"prefill", {{"a", 2.0}, {"b", 3.0}}}}, {{"prefill", 0.5}})}});
}

TEST_CASE("older: coefficients beside the groups") {
  CHECK(newest("top_level_factor.json") ==
        Json{{"group_0",
              skip_softmax_group({{"prefill", kPrefill}, {"decode", kDecode}}, {{"prefill", 0.5}, {"decode", 0.5}})}});
}

TEST_CASE("older: coefficients, targets and N:M parameters beside the groups") {
  const Json groups = newest("top_level_sparse_softmax.json");
  REQUIRE(groups.size() == 2);
  CHECK(groups["group_0"] == skip_softmax_group({{"prefill", kPrefill}}, {{"prefill", 0.3}}));
  CHECK(groups["group_1"] == Json{{"algorithm", "sparse_softmax"},
                                  {"targets", {"LlamaAttention"}},
                                  {"ignore", Json::array()},
                                  {"sparsity_n", 1},
                                  {"sparsity_m", 8},
                                  {"dense_sink_tokens", 4},
                                  {"dense_recent_tokens", 32}});
}

TEST_CASE("older: N:M parameters without a group of their own hold for the modules that skip") {
  const Json groups = newest("implied_sparse_softmax.json");
  REQUIRE(groups.size() == 2);
  CHECK(groups["group_0"]["target_sparsity"] == Json{{"decode", 0.3}});
  CHECK(groups["group_1"]["algorithm"] == "sparse_softmax");
  CHECK(groups["group_1"]["sparsity_n"] == 2);
  for (const char* name : {"group_0", "group_1"}) {
    CHECK(groups[name]["targets"] == Json{"LlamaAttention"});
    CHECK(groups[name]["ignore"] == Json{"model.layers.1.self_attn"});
  }
}

TEST_CASE("a group alone, without config_groups, means every attention module unless it says which") {
  const Json skipping = newest("flat.json")["group_0"];
  CHECK_FALSE(skipping.contains("targets"));
  CHECK(skipping["ignore"] == Json{"model.layers.1.self_attn"});
  CHECK(skipping["initial_disabled_steps"] == 2);
  CHECK(skipping["target_sparsity"] == Json{{"prefill", 0.25}});
  CHECK(newest("flat_sparse_softmax.json")["group_0"]["targets"] == Json{"LlamaAttention"});
}

TEST_CASE("a group alone with coefficients needs no algorithm") {
  Json group = read_json(kFiles / "flat.json");
  group.erase("algorithm");
  CHECK(to_json(read_config_groups(group, "config.json")) == newest("flat.json"));
}

TEST_CASE("what is malformed or cannot be honoured is an error that names it") {
  const std::string top = "config.json: $.sparse_attention_config";
  const std::string group = top + ".config_groups.group_0";
  const std::string factor = group + ".threshold_scale_factor";
  const std::map<std::string, std::string> expected = {
      {"algorithm_twice", group + R"(.sparse_algo: "softmax_skip", expected it once: )"
                                  "$.sparse_attention_config.config_groups.group_0.algorithm says it too"},
      {"empty", top + ".config_groups: missing"},
      {"factor_is_a_number", factor + ": 437.7, expected an object"},
      {"factor_twice", top + R"(.threshold_scale_factor: {"prefill":{"a":3.0,"b":2.0}}, expected it once: )"
                             "$.sparse_attention_config.config_groups.group_0.threshold_scale_factor says it too"},
      {"factor_without_group",
       top + R"(.threshold_scale_factor: {"prefill":{"a":3.0,"b":2.0}}, but this key is not understood here)"},
      {"ignore_is_a_string", group + R"(.ignore: "model.layers.0.self_attn", expected an array of strings or null)"},
      {"keeps_all", group + ".sparsity_n: 4, expected an integer from 0 to 3 (less than sparsity_m = 4)"},
      {"no_exponent", factor + ".prefill.b: missing"},
      {"no_factor", factor + ": missing"},
      {"no_object", top + R"(: ["skip_softmax"], expected an object)"},
      {"no_phase", factor + R"_(: {"formula":"a * exp(b * target_sparsity)"}, )_"
                            "expected coefficients a and b of prefill, of decode, or of both"},
      {"no_targets", group + ".targets: missing"},
      {"other_algorithm",
       group + R"(.algorithm: "rocket", expected skip_softmax or sparse_softmax, which are all that can be honoured)"},
      {"other_formula", factor + R"_(.formula: "exp(log_a + b * target_sparsity)", )_"
                                 "expected a * exp(b * target_sparsity), which is all that can be honoured"},
      {"softmax_without_group", top + ".sparse_softmax: {}, expected groups in config_groups that it belongs to"},
      {"target_too_large", group + ".target_sparsity.prefill: 1.5, expected a number > 0 and < 1"},
      {"timestep_of_diffusion", group + ".disabled_until_timestep: 0.86, expected an integer from 0 to 2147483647"},
      {"unknown_key", group + ".threshold: 0.1, but this key is not understood here"},
      {"zero_coefficient", factor + ".prefill.a: 0.0, expected a number > 0"},
  };
  std::map<std::string, std::string> found;
  for (const auto& file : fs::directory_iterator(kFiles / "malformed"))
    found[file.path().stem().string()] = error_of(read_json(file.path()));
  REQUIRE(found.size() == expected.size());
  for (const auto& [name, message] : expected) {
    CAPTURE(name);
    CHECK(found[name] == message);
  }
}

}  // namespace
}  // namespace modelopt::checkpoint
