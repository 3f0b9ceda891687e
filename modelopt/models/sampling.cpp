#include <modelopt/models/sampling.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/argmax.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>
#include <vector>

#include <modelopt/error.h>

namespace modelopt::models {
namespace {

struct Candidate {
  std::int64_t token;
  double weight;  // scaled logit, then unnormalised probability
};

// More likely first, and the lower id among equals: a total order, so that filters keep the same tokens everywhere.
bool more_likely(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
}

// In [0, 1) with 53 random bits.
double uniform(at::Generator& generator) {
  auto* cpu = at::check_generator<at::CPUGeneratorImpl>(generator);
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return static_cast<double>(cpu->random64() >> 11) * 0x1p-53;
}

std::vector<Candidate> candidates(const at::Tensor& logits, double temperature) {
  const at::Tensor host = logits.to(at::kCPU, at::kDouble).contiguous();
  const double* values = host.const_data_ptr<double>();
  std::vector<Candidate> result(static_cast<std::size_t>(host.numel()));
  double largest = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < result.size(); ++i) {
    MODELOPT_CHECK(!std::isnan(values[i]), Error, "the logit of token ", i, " is NaN, expected a number");
    result[i] = {static_cast<std::int64_t>(i), values[i] / temperature};
    largest = std::max(largest, result[i].weight);
  }
  MODELOPT_CHECK(std::isfinite(largest), Error, "the largest logit is ", largest, ", expected a finite number");
  for (Candidate& candidate : result) candidate.weight = std::exp(candidate.weight - largest);
  return result;
}

double total_weight(const std::vector<Candidate>& kept) {
  return std::accumulate(kept.begin(), kept.end(), 0.0, [](double sum, const Candidate& c) { return sum + c.weight; });
}

void keep_top_k(std::vector<Candidate>& kept, std::int64_t k) {
  const auto end = kept.begin() + std::min<std::ptrdiff_t>(k, std::ssize(kept));
  std::partial_sort(kept.begin(), end, kept.end(), more_likely);
  kept.erase(end, kept.end());
}

// The candidates whose sum first reaches p of the whole; always one at least.
void keep_top_p(std::vector<Candidate>& kept, double p) {
  std::sort(kept.begin(), kept.end(), more_likely);
  const double enough = p * total_weight(kept);
  double sum = 0.0;
  const auto last = std::find_if(kept.begin(), kept.end(), [&](const Candidate& candidate) {
    sum += candidate.weight;
    return sum >= enough;
  });
  if (last != kept.end()) kept.erase(last + 1, kept.end());
}

}  // namespace

void validate(const SamplingConfig& config) {
  if (!config.do_sample) return;
  MODELOPT_CHECK(std::isfinite(config.temperature) && config.temperature > 0, InvalidArgument, "temperature is ",
                 config.temperature, ", expected a finite number above 0 (for greedy decoding turn sampling off)");
  MODELOPT_CHECK(config.top_k >= 0, InvalidArgument, "top_k is ", config.top_k, ", expected 0 (all tokens) or more");
  MODELOPT_CHECK(config.top_p > 0 && config.top_p <= 1, InvalidArgument, "top_p is ", config.top_p,
                 ", expected a number above 0 and at most 1");
}

std::int64_t greedy_token(const at::Tensor& logits) {
  const auto token = at::argmax(logits).item<std::int64_t>();
  const auto largest = logits.select(0, token).item<double>();  // a NaN counts as the largest
  MODELOPT_CHECK(std::isfinite(largest), Error, "the largest logit is ", largest, ", expected a finite number");
  return token;
}

std::int64_t sample_token(const at::Tensor& logits, const SamplingConfig& config, at::Generator& generator) {
  validate(config);
  std::vector<Candidate> kept = candidates(logits, config.temperature);
  if (config.top_k > 0) keep_top_k(kept, config.top_k);
  if (config.top_p < 1) keep_top_p(kept, config.top_p);
  const double target = uniform(generator) * total_weight(kept);
  double sum = 0.0;
  const Candidate* chosen = nullptr;
  for (const Candidate& candidate : kept) {
    if (candidate.weight == 0) continue;  // never drawn, not even by rounding at the end
    chosen = &candidate;
    sum += candidate.weight;
    if (sum > target) break;
  }
  return chosen->token;  // the largest logit has weight 1 and passes every filter
}

}  // namespace modelopt::models
