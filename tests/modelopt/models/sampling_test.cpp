#include <modelopt/models/sampling.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <modelopt/error.h>

using namespace modelopt;
using namespace modelopt::models;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

at::Tensor logits_of(const std::vector<double>& values) { return at::tensor(values, at::kDouble); }

std::int64_t greedy_token(const at::Tensor& logits) { return greedy_tokens(logits.unsqueeze(0)).front(); }

std::int64_t sample_token(const at::Tensor& logits, const SamplingConfig& config, const at::Generator& generator) {
  return sample_tokens(logits.unsqueeze(0), config, {generator}).front();
}

SamplingConfig sampling(double temperature = 1.0, std::int64_t top_k = 0, double top_p = 1.0) {
  return {.do_sample = true, .temperature = temperature, .top_k = top_k, .top_p = top_p};
}

constexpr int kDraws = 20000;

std::vector<int> counts(const at::Tensor& logits, const SamplingConfig& config, std::uint64_t seed = 5) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  std::vector<int> result(static_cast<std::size_t>(logits.size(0)));
  // every row draws from the one generator, in order
  const std::vector<at::Generator> generators(kDraws, generator);
  for (const std::int64_t token : sample_tokens(logits.expand({kDraws, -1}), config, generators))
    ++result[static_cast<std::size_t>(token)];
  return result;
}

// Five standard deviations of a binomial count.
bool plausible(int count, double probability) {
  return std::abs(count - kDraws * probability) <= 5 * std::sqrt(kDraws * probability * (1 - probability));
}

}  // namespace

TEST_CASE("Greedy takes the largest logit, the lowest id among equals") {
  CHECK(greedy_token(logits_of({1, 4, 2, 4})) == 1);
  CHECK(greedy_token(logits_of({-kInfinity, -3})) == 1);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_WITH(greedy_token(logits_of({1, nan})), "the largest logit is nan, expected a finite number");
  CHECK_THROWS_WITH(greedy_token(logits_of({-kInfinity, -kInfinity})),
                    "the largest logit is -inf, expected a finite number");
}

TEST_CASE("Rows are independent: each gets the token that it would get alone") {
  const at::Tensor logits = at::randn({7, 61}, at::make_generator<at::CPUGeneratorImpl>(2), at::kFloat);
  const SamplingConfig config = GENERATE(sampling(), sampling(0.7, 20), sampling(1.3, 0, 0.8), sampling(1.0, 9, 0.5));
  std::vector<at::Generator> generators;
  std::vector<std::int64_t> alone, greedy;
  for (std::int64_t row = 0; row < logits.size(0); ++row) {
    const auto seed = static_cast<std::uint64_t>(row);
    generators.push_back(at::make_generator<at::CPUGeneratorImpl>(seed));
    alone.push_back(sample_token(logits[row], config, at::make_generator<at::CPUGeneratorImpl>(seed)));
    greedy.push_back(greedy_token(logits[row]));
  }
  CHECK(sample_tokens(logits, config, generators) == alone);
  CHECK(greedy_tokens(logits) == greedy);
}

TEST_CASE("Tokens are drawn with the probabilities of softmax(logits / temperature)") {
  const at::Tensor logits = logits_of({std::log(1.0), std::log(4.0), -kInfinity, std::log(16.0)});
  SECTION("temperature 1") {
    const std::vector<int> drawn = counts(logits, sampling());
    CHECK(plausible(drawn[0], 1.0 / 21));
    CHECK(plausible(drawn[1], 4.0 / 21));
    CHECK(drawn[2] == 0);
    CHECK(plausible(drawn[3], 16.0 / 21));
  }
  SECTION("temperature 2 takes the square root") {
    const std::vector<int> drawn = counts(logits, sampling(2.0));
    CHECK(plausible(drawn[0], 1.0 / 7));
    CHECK(plausible(drawn[1], 2.0 / 7));
    CHECK(plausible(drawn[3], 4.0 / 7));
  }
}

TEST_CASE("top_k keeps the k most likely, the lower ids among equals") {
  const at::Tensor logits = logits_of({0, 1, 1, 1, -1});
  const std::vector<int> drawn = counts(logits, sampling(1.0, 2));
  CHECK(plausible(drawn[1], 0.5));
  CHECK(drawn[1] + drawn[2] == kDraws);
  CHECK(counts(logits, sampling(1.0, 100)) == counts(logits, sampling(1.0, 5)));
}

TEST_CASE("top_k 1 is greedy") {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(1);
  for (int i = 0; i < 50; ++i) {
    const at::Tensor logits = at::randn({301}, generator, at::kFloat);
    CHECK(sample_token(logits, sampling(3.0, 1), generator) == greedy_token(logits));
  }
}

TEST_CASE("top_p keeps the fewest most likely tokens that reach p") {
  const at::Tensor equal = logits_of({2, 2, 2, 2});
  CHECK(counts(equal, sampling(1.0, 0, 0.5))[2] == 0);  // two reach one half exactly
  CHECK(counts(equal, sampling(1.0, 0, 0.500001))[2] > 0);
  CHECK(counts(equal, sampling(1.0, 0, 0.500001))[3] == 0);
  CHECK(counts(equal, sampling(1.0, 0, 1e-300))[0] == kDraws);  // never fewer than one
  // of what top_k leaves: 0.6 and 0.4 of two tokens
  const at::Tensor logits = logits_of({std::log(6.0), std::log(4.0), std::log(5.9)});
  CHECK(counts(logits, sampling(1.0, 2, 0.49))[2] == 0);
  CHECK(counts(logits, sampling(1.0, 2, 0.51))[2] > 0);
  CHECK(counts(logits, sampling(1.0, 2, 0.99))[1] == 0);
}

TEST_CASE("The same generator state gives the same tokens, another seed others") {
  const at::Tensor logits = at::randn({50}, at::make_generator<at::CPUGeneratorImpl>(9), at::kFloat);
  CHECK(counts(logits, sampling(), 1) == counts(logits, sampling(), 1));
  CHECK(counts(logits, sampling(), 1) != counts(logits, sampling(), 2));
}

TEST_CASE("Parameters and logits out of their domain are refused") {
  CHECK_THROWS_WITH(validate(sampling(0.0)),
                    "temperature is 0, expected a finite number above 0 (for greedy decoding turn sampling off)");
  CHECK_THROWS_AS(validate(sampling(kInfinity)), InvalidArgument);
  CHECK_THROWS_WITH(validate(sampling(1.0, -1)), "top_k is -1, expected 0 (all tokens) or more");
  CHECK_THROWS_WITH(validate(sampling(1.0, 0, 0.0)), "top_p is 0, expected a number above 0 and at most 1");
  CHECK_THROWS_WITH(validate(sampling(1.0, 0, 1.5)), "top_p is 1.5, expected a number above 0 and at most 1");
  CHECK_NOTHROW(validate(SamplingConfig{.do_sample = false, .temperature = 0.0}));

  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(1);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_WITH(sample_token(logits_of({1, nan}), sampling(), generator),
                    "the largest logit is nan, expected a finite number");
  CHECK_THROWS_WITH(sample_token(logits_of({1, kInfinity}), sampling(), generator),
                    "the largest logit is inf, expected a finite number");
}
