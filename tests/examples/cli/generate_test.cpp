#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <modelopt/util/file.h>

#include "examples/cli/program.h"
#include "modelopt/checkpoint/test_files.h"

namespace modelopt::test {
namespace {

using Json = nlohmann::ordered_json;

class Generate {
 public:
  [[nodiscard]] std::vector<std::string> arguments(const Json& ids, const std::vector<std::string>& more) const {
    std::vector<std::string> result = {"generate", "--model", tiny_model(), "--token-ids",
                                       write_json(directory_ / "ids.json", ids)};
    result.insert(result.end(), more.begin(), more.end());
    return result;
  }
  [[nodiscard]] Json ids(const Json& prompt, const std::vector<std::string>& more) const {
    return run_json(arguments(prompt, more))["sequences"][0]["ids"];
  }

 private:
  TemporaryDirectory directory_;
};

TEST_CASE("generate continues ids where there is no tokenizer") {
  const Generate generate;
  const Json data = run_json(generate.arguments(some_ids(20), {"--max-new-tokens", "7"}));
  CHECK(data["prefill_tokens"] == 20);
  const Json& sequence = data["sequences"][0];
  CHECK(sequence["text"].is_null());
  CHECK((sequence["ids"].size() == 7 || sequence["finish_reason"] == "stop"));
  const ProgramResult text = run_program(generate.arguments(some_ids(20), {"--max_new_tokens", "7"}));
  CHECK(text.out == sequence["ids"].dump() + "\n");
  CHECK(text.err.find("prefill: 20 tokens in ") != std::string::npos);
}

TEST_CASE("a batch gives each prompt what it gets alone") {
  const Generate generate;
  const Json both = run_json(generate.arguments(Json::array({some_ids(9), some_ids(30)}), {"--max-new-tokens", "6"}));
  REQUIRE(both["sequences"].size() == 2);
  CHECK(both["sequences"][1]["ids"] == generate.ids(some_ids(30), {"--max-new-tokens", "6"}));
}

TEST_CASE("prompt-tokens cuts the prompt") {
  const Generate generate;
  CHECK(generate.ids(some_ids(50), {"--prompt-tokens", "12"}) == generate.ids(some_ids(12), {}));
  CHECK(generate.ids(some_ids(50), {"--seq_len", "12"}) == generate.ids(some_ids(12), {}));
}

TEST_CASE("sampling follows its seed") {
  const Generate generate;
  const auto sampled = [&](const std::string& seed) {
    return generate.ids(some_ids(20), {"--do-sample", "--temperature", "2", "--top-k", "0", "--seed", seed});
  };
  CHECK(sampled("1") == sampled("1"));
  CHECK(sampled("1") != sampled("2"));
  CHECK(generate.ids(some_ids(20), {"--do-sample", "--top-k", "1"}) == generate.ids(some_ids(20), {}));
}

TEST_CASE("generate --stats shows what each module skipped in prefill and decode") {
  const Generate generate;
  std::vector<std::string> more = {"--max-new-tokens",
                                   "4",
                                   "--config",
                                   "SKIP_SOFTMAX_TRITON_DEFAULT",
                                   "--set",
                                   "br=8",
                                   "--set",
                                   "bc=8",
                                   "--set",
                                   "skip_softmax_threshold=0.9"};
  CHECK(run_json(generate.arguments(some_ids(120), more))["statistics"].empty());
  more.emplace_back("--stats");
  const Json statistics = run_json(generate.arguments(some_ids(120), more))["statistics"];
  REQUIRE(statistics.size() == 2 * 2 * 2);  // phases, modules, key heads
  CHECK(statistics[3]["module"] == "model.layers.1.self_attn");
  CHECK(statistics[3]["key_head"] == 1);
  for (const Json& group : statistics) {
    // of two query heads: 15 rows of blocks in the prompt, 16 key blocks in each of three steps
    CHECK(group["blocks_visible"] == (group["phase"] == "prefill" ? 2 * 15 * 16 / 2 : 2 * 3 * 16));
    CHECK(group["blocks_skipped"] > 0);
    CHECK(group["blocks_skipped"] < group["blocks_visible"]);
    CHECK(group["pairs_attended"] < group["pairs_visible"]);
  }
  const ProgramResult text = run_program(generate.arguments(some_ids(120), more));
  CHECK(text.out.find("module                    phase    blocks  skipped %  by head group  kept pairs %\n") !=
        std::string::npos);
  CHECK(text.out.find("\nmodel.layers.1.self_attn  decode      192  ") != std::string::npos);
}

TEST_CASE("ids beyond the tokenizer, of a padded embedding, have no text") {
  const TemporaryDirectory directory;
  std::filesystem::copy(tiny_model("llama_llama3rope"), directory / "tiny");
  Json tokenizer = Json::parse(read_file(MODELOPT_TEST_DATA "/tokenizers/bytes/tokenizer.json"));
  Json first_tokens = Json::object();
  for (const auto& [token, id] : tokenizer["model"]["vocab"].items())
    if (id < 32) first_tokens[token] = id;
  tokenizer["model"]["vocab"] = first_tokens;
  tokenizer["model"]["merges"] = Json::array();
  directory.write("tiny/tokenizer.json", tokenizer.dump());
  const Json data = run_json({"generate", "--model", (directory / "tiny").string(), "--token-ids",
                              write_json(directory / "ids.json", some_ids(20)), "--max-new-tokens", "20"});
  const Json& ids = data["sequences"][0]["ids"];
  CHECK(std::any_of(ids.begin(), ids.end(), [](const Json& id) { return id >= 32; }));
  CHECK(data["sequences"][0]["text"].is_string());
}

TEST_CASE("a text prompt needs a tokenizer") {
  const ProgramResult result = run_program({"generate", "--model", tiny_model(), "--prompt", "Hello"});
  CHECK(result.exit_code == 3);
  CHECK(result.err == "modelopt: error: " + tiny_model() +
                          ": holds no tokenizer.json, expected one, or --token-ids instead of a text\n");
}

}  // namespace
}  // namespace modelopt::test
