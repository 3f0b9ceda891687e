#include <modelopt/models/generate.h>

#include <ATen/ops/equal.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers.hpp>

#include <algorithm>
#include <utility>

#include <modelopt/error.h>

#include "modelopt/models/tiny_model.h"

using namespace modelopt;
using namespace modelopt::models;

namespace {

using Ids = std::vector<std::int64_t>;

GenerateConfig sampled(std::uint64_t seed) {
  GenerateConfig config;
  config.max_new_tokens = 12;
  config.sampling = {.do_sample = true, .temperature = 1.5, .top_k = 20, .top_p = 0.95, .seed = seed};
  return config;
}

GenerateConfig greedy(std::int64_t max_new_tokens = 12) {
  GenerateConfig config;
  config.max_new_tokens = max_new_tokens;
  return config;
}

// Greedy tokens by a full forward for each, without a cache.
Ids greedy_without_cache(CausalLM& model, Ids ids, std::int64_t count) {
  Ids generated;
  while (std::ssize(generated) < count) {
    ModelInput input = packed({ids});
    input.logits = LogitRows::kLast;
    generated.push_back(greedy_tokens(model.forward(input).logits).front());
    ids.push_back(generated.back());
  }
  return generated;
}

}  // namespace

TEST_CASE("Greedy generation continues with the most likely token, whatever the chunks of the prompt") {
  const auto model = random_model(tiny_config());
  const Ids prompt = random_ids(21);
  GenerateConfig config = greedy();
  config.chunk_size = GENERATE(0, 1, 8, 100);
  const GenerateResult result = generate(*model, {prompt}, config);
  CHECK(result.sequences[0].ids == greedy_without_cache(*model, prompt, 12));
  CHECK(result.sequences[0].finish_reason == FinishReason::kLength);
  CHECK(result.prefill_tokens == 21);
  CHECK(result.decode_tokens == 11);
  CHECK(result.prefill_seconds > 0);
  CHECK(result.decode_seconds > 0);
  CHECK(result.prefill_stats.empty());
}

TEST_CASE("A batch of prompts of different lengths generates what each generates alone") {
  const auto model = random_model(tiny_config(ModelType::kQwen3));
  const std::vector<Ids> prompts = {random_ids(3, 1), random_ids(40, 2), random_ids(17, 3)};
  GenerateConfig config = GENERATE(greedy(), sampled(40));
  config.chunk_size = GENERATE(0, 8);
  const GenerateResult together = generate(*model, prompts, config);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    GenerateConfig alone = config;
    alone.sampling.seed += i;
    CHECK(together.sequences[i].ids == generate(*model, {prompts[i]}, alone).sequences[0].ids);
  }
}

TEST_CASE("A sequence ends with a stop token, the others go on") {
  const auto model = random_model(tiny_config());
  const std::vector<Ids> prompts = {random_ids(9, 1), random_ids(14, 5)};
  const GenerateResult free_run = generate(*model, prompts, greedy());
  const Ids &first = free_run.sequences[0].ids, &second = free_run.sequences[1].ids;
  const auto stop = std::find_if(first.begin(), first.end(), [&](std::int64_t token) {
    return token != first[0] && std::find(second.begin(), second.end(), token) == second.end();
  });
  REQUIRE(stop != first.end());

  GenerateConfig config = greedy();
  config.stop_token_ids = {-1, *stop};  // an id that never occurs does no harm
  const GenerateResult stopped = generate(*model, prompts, config);
  CHECK(stopped.sequences[0].ids == Ids(first.begin(), stop + 1));
  CHECK(stopped.sequences[0].finish_reason == FinishReason::kStop);
  CHECK(stopped.sequences[1].ids == second);
  CHECK(stopped.sequences[1].finish_reason == FinishReason::kLength);
  CHECK(stopped.decode_tokens == (stop - first.begin()) + 11);
}

TEST_CASE("A stop token may be the first one, and then nothing is decoded") {
  const auto model = random_model(tiny_config());
  GenerateConfig config = greedy();
  config.stop_token_ids = {generate(*model, {random_ids(9)}, greedy(1)).sequences[0].ids[0]};
  const GenerateResult result = generate(*model, {random_ids(9)}, config);
  CHECK(result.sequences[0].ids == config.stop_token_ids);
  CHECK(result.sequences[0].finish_reason == FinishReason::kStop);
  CHECK(result.decode_tokens == 0);
}

TEST_CASE("A seed reproduces its tokens, another seed draws others, top_k 1 is greedy") {
  const auto model = random_model(tiny_config());
  const Ids prompt = random_ids(9);
  const auto tokens = [&](const GenerateConfig& config) { return generate(*model, {prompt}, config).sequences[0].ids; };
  CHECK(tokens(sampled(1)) == tokens(sampled(1)));
  CHECK(tokens(sampled(1)) != tokens(sampled(2)));
  GenerateConfig one = sampled(1);
  one.sampling.top_k = 1;
  CHECK(tokens(one) == tokens(greedy()));
}

TEST_CASE("Tokens are handed out as they are chosen") {
  const auto model = random_model(tiny_config());
  std::vector<Ids> streamed(2);
  std::vector<std::size_t> order;
  const auto on_token = [&](std::size_t sequence, std::int64_t token) {
    streamed[sequence].push_back(token);
    order.push_back(sequence);
  };
  const GenerateResult result = generate(*model, {random_ids(5, 1), random_ids(8, 2)}, greedy(3), on_token);
  CHECK(streamed[0] == result.sequences[0].ids);
  CHECK(streamed[1] == result.sequences[1].ids);
  CHECK(order == std::vector<std::size_t>{0, 1, 0, 1, 0, 1});
}

TEST_CASE("Statistics are summed over chunks and over steps") {
  const auto model = random_model(tiny_config());
  collect_stats(*model);
  GenerateConfig config = greedy(4);
  config.chunk_size = 5;
  const GenerateResult result = generate(*model, {random_ids(12, 1), random_ids(3, 2)}, config);
  REQUIRE(result.prefill_stats.size() == 3);
  REQUIRE(result.decode_stats.size() == 3);
  CHECK(result.prefill_stats[2].module == "model.layers.2.self_attn");
  const auto pairs = [](const ModuleStats& stats, std::int64_t sequence) {
    return stats.stats[sequence][0][2].item<std::int64_t>();
  };
  CHECK(pairs(result.prefill_stats[2], 0) == 12 * 13 / 2);
  CHECK(pairs(result.prefill_stats[2], 1) == 3 * 4 / 2);
  CHECK(pairs(result.decode_stats[0], 0) == 13 + 14 + 15);
  CHECK(pairs(result.decode_stats[0], 1) == 4 + 5 + 6);
}

TEST_CASE("What cannot be generated from is refused") {
  const auto model = random_model(tiny_config());
  const auto run = [&](const std::vector<Ids>& prompts, const GenerateConfig& config) {
    return generate(*model, prompts, config);
  };
  CHECK_THROWS_WITH(run({}, greedy()), "prompts is empty, expected at least one prompt");
  CHECK_THROWS_WITH(run({{1}, {}}, greedy()), "prompt 1 has no token, expected at least one");
  CHECK_THROWS_WITH(run({{1}}, greedy(0)), "max_new_tokens is 0, expected at least 1");
  CHECK_THROWS_WITH(run({{97}}, greedy()), "input_ids holds 97, expected 0 to 96");
  GenerateConfig config = greedy();
  config.chunk_size = -1;
  CHECK_THROWS_WITH(run({{1}}, config), "chunk_size is -1, expected 0 (the whole prompt) or more");
  config = sampled(1);
  config.sampling.temperature = -1;
  CHECK_THROWS_AS(run({{1}}, config), InvalidArgument);
}
