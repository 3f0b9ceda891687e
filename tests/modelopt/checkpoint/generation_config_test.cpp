#include <modelopt/checkpoint/generation_config.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <modelopt/checkpoint/hf_config.h>

#include "modelopt/checkpoint/test_files.h"

namespace modelopt::checkpoint {
namespace {

using test::data_error;
using Ids = std::vector<std::int64_t>;

models::ModelConfig small_model() {
  models::ModelConfig model;
  model.vocab_size = 100;
  model.eos_token_ids = {2};
  model.bos_token_id = 1;
  return model;
}

GenerationConfig parse(std::string_view text) { return parse_generation_config(text, "g.json", small_model()); }

TEST_CASE("without a file the defaults hold, and token ids are the model's") {
  const test::TemporaryDirectory directory;
  const GenerationConfig config = read_generation_config(directory.path(), small_model());
  CHECK(config.temperature == 1.0);
  CHECK(config.top_k == 50);
  CHECK(config.top_p == 1.0);
  CHECK(config.eos_token_ids == Ids{2});
  CHECK(config.bos_token_id == 1);
  CHECK_FALSE(config.pad_token_id.has_value());
}

TEST_CASE("settings are read; neutral values, null and what the caller chooses change nothing") {
  const GenerationConfig config =
      parse(R"({"do_sample": true, "temperature": 0.6, "top_k": 0, "top_p": 0.9, "max_new_tokens": 7,
      "max_length": 4096, "eos_token_id": [5, 6], "bos_token_id": 3, "pad_token_id": 4, "repetition_penalty": 1,
      "num_beams": 1,
      "min_p": null, "typical_p": 1.0, "_from_model_config": true, "transformers_version": "5", "use_cache": true})");
  CHECK(config.temperature == 0.6);
  CHECK(config.top_k == 0);
  CHECK(config.top_p == 0.9);
  CHECK(config.eos_token_ids == Ids{5, 6});
  CHECK(config.bos_token_id == 3);
  CHECK(config.pad_token_id == 4);
  CHECK(parse(R"({"do_sample": null, "temperature": 0, "top_k": null})").top_k == 50);
}

TEST_CASE("the tiny models' files are read") {
  const std::filesystem::path directory = MODELOPT_TEST_DATA "/models/qwen3";
  CHECK(read_generation_config(directory, read_model_config(directory)).pad_token_id == 0);
}

TEST_CASE("what would change the text, or is wrong, is an error that names the key") {
  struct Case {
    std::string text, message;
  };
  const auto [text, message] = GENERATE(values<Case>({
      {R"({"repetition_penalty": 1.05})", "$.repetition_penalty: 1.05, expected 1.0: nothing else is supported"},
      {R"({"num_beams": 4})", "$.num_beams: 4, expected 1: nothing else is supported"},
      {R"({"suppress_tokens": [1]})", "$.suppress_tokens: [1], expected null: nothing else is supported"},
      {R"({"min_p": 0.1})", "$.min_p: 0.1, expected 0.0: nothing else is supported"},
      {R"({"no_repeat_ngram_size": 3})", "$.no_repeat_ngram_size: 3, expected 0: nothing else is supported"},
      {R"({"remove_invalid_values": true})",
       "$.remove_invalid_values: true, expected false: nothing else is supported"},
      {R"({"chat_format": "raw"})", "$.chat_format: \"raw\", but this key is not understood here"},
      {R"({"temperature": -1})", "$.temperature: -1, expected a number >= 0 or null"},
      {R"({"top_p": 1.5})", "$.top_p: 1.5, expected a number > 0 and <= 1"},
      {R"({"top_k": 1.0})", "$.top_k: 1.0, expected an integer >= 0 or null"},
      {R"({"eos_token_id": 100})", "$.eos_token_id: 100, expected an integer from 0 to 99, an array of such, or null"},
      {R"({"top_k": 1, "top_k": 2})", "$.top_k: the key occurs twice"},
  }));
  CHECK(data_error({}, [&] { static_cast<void>(parse(text)); }) == "g.json: " + message);
}

}  // namespace
}  // namespace modelopt::checkpoint
