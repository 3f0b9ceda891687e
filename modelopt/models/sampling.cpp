#include <modelopt/models/sampling.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/max.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <optional>

#include <modelopt/error.h>
#include <modelopt/models/to_device.h>

namespace modelopt::models {
namespace {

// In [0, 1) with 53 random bits.
double uniform(at::Generator generator) {
  auto* cpu = at::check_generator<at::CPUGeneratorImpl>(generator);
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return static_cast<double>(cpu->random64() >> 11) * 0x1p-53;
}

// Candidates of each row, most likely first where a filter asks for that order.
struct Candidates {
  at::Tensor weights;                ///< fp64 [rows, n]: probabilities times a constant of the row
  std::optional<at::Tensor> tokens;  ///< int64 [rows, n]; nullopt: candidate i is token i
};

Candidates candidates(const at::Tensor& logits, const at::Tensor& largest, const SamplingConfig& config) {
  const at::Tensor scaled = logits.to(at::kDouble) / config.temperature;
  const at::Tensor shift = (largest / config.temperature).unsqueeze(1);
  if (config.top_k == 0 && config.top_p == 1) return {at::exp(scaled - shift), std::nullopt};
  // stable: the lower id first among equals, so that filters keep the same tokens everywhere
  auto [values, tokens] = at::sort(scaled, /*stable=*/true, /*dim=*/1, /*descending=*/true);
  const std::int64_t kept = config.top_k == 0 ? logits.size(1) : std::min(config.top_k, logits.size(1));
  return {at::exp(values.narrow(1, 0, kept) - shift), tokens.narrow(1, 0, kept)};
}

// Index [rows, 1] of the first entry of non-decreasing rows [rows, n] that is at least, or (strict) above, a bound
// [rows, 1]; n where there is none, 0 in a row of NaN.
at::Tensor first_reaching(const at::Tensor& sums, const at::Tensor& bound, bool strict) {
  return (strict ? sums <= bound : sums < bound).sum(1, /*keepdim=*/true);
}

// Index [rows, 1] of the candidate that a uniform number [rows, 1] draws.
at::Tensor draw(const at::Tensor& weights, double top_p, const at::Tensor& uniforms) {
  const at::Tensor sums = at::cumsum(weights, 1);
  at::Tensor total = sums.narrow(1, sums.size(1) - 1, 1);
  // The candidates whose sum first reaches p of the whole; always one at least.
  if (top_p < 1) total = sums.gather(1, first_reaching(sums, top_p * total, /*strict=*/false));
  // The first sum above the target belongs to a weight above 0. Rounding may lift the target to the total: then the
  // candidate is the one that reached it.
  const at::Tensor reached = first_reaching(sums, total, /*strict=*/false);
  return at::minimum(first_reaching(sums, uniforms * total, /*strict=*/true), reached);
}

// What a choice needs to bring to the host, in one copy: fp64 [rows, 2] of the token (exact) and the largest logit.
std::vector<std::int64_t> checked_tokens(const at::Tensor& token, const at::Tensor& largest) {
  const at::Tensor host = at::stack({token.to(at::kDouble), largest.to(at::kDouble)}, 1).to(at::kCPU).contiguous();
  const double* values = host.const_data_ptr<double>();
  std::vector<std::int64_t> tokens;
  for (std::int64_t row = 0; row < host.size(0); ++row) {
    const double logit = values[2 * row + 1];
    MODELOPT_CHECK(std::isfinite(logit), Error, "the largest logit is ", logit, ", expected a finite number");
    tokens.push_back(static_cast<std::int64_t>(values[2 * row]));
  }
  return tokens;
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

std::vector<std::int64_t> greedy_tokens(const at::Tensor& logits) {
  const auto [largest, token] = at::max(logits, 1);  // the first of equal ones; a NaN counts as the largest
  return checked_tokens(token, largest);
}

std::vector<std::int64_t> sample_tokens(const at::Tensor& logits, const SamplingConfig& config,
                                        const std::vector<at::Generator>& generators) {
  validate(config);
  MODELOPT_CHECK(std::ssize(generators) == logits.size(0), InvalidArgument, generators.size(), " generators for ",
                 logits.size(0), " rows of logits, expected one each");
  std::vector<double> uniforms;
  for (const at::Generator& generator : generators) uniforms.push_back(uniform(generator));
  const at::Tensor largest = std::get<0>(at::max(logits, 1)).to(at::kDouble);
  const Candidates kept = candidates(logits, largest, config);
  const at::Tensor index = draw(kept.weights, config.top_p, to_device(uniforms, logits.device()).unsqueeze(1));
  return checked_tokens((kept.tokens ? kept.tokens->gather(1, index) : index).squeeze(1), largest);
}

}  // namespace modelopt::models
