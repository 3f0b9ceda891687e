#include <modelopt/models/rotary_embedding.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include <modelopt/error.h>

namespace modelopt::models {
namespace {

// theta^(2i/D) for i = 0 .. D/2-1: the wavelength of pair i is 2 pi times that.
at::Tensor periods(double theta, std::int64_t head_dim) {
  const at::Tensor exponents = at::arange(0, head_dim, 2, at::kFloat) / static_cast<double>(head_dim);
  return at::pow(theta, exponents);
}

// Llama 3.1: long wavelengths are stretched by `factor`, short ones stay, and between them the weight goes linearly in
// the number of rotations within the original context.
at::Tensor llama3_frequencies(const RopeConfig& rope, const at::Tensor& frequencies) {
  const auto context = static_cast<double>(rope.original_max_position_embeddings);
  const at::Tensor wavelengths = 2.0 * std::numbers::pi / frequencies;
  const at::Tensor stretched = frequencies / rope.factor;
  const at::Tensor weight =
      (context / wavelengths - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  const at::Tensor between = (1 - weight) * frequencies / rope.factor + weight * frequencies;
  const at::Tensor long_or_between = at::where(wavelengths > context / rope.low_freq_factor, stretched, between);
  return at::where(wavelengths < context / rope.high_freq_factor, frequencies, long_or_between);
}

// YaRN (arXiv 2309.00071): pairs that rotate more than beta_fast times within the original context stay, those below
// beta_slow are interpolated, and between them a linear ramp over the index of the pair.
at::Tensor yarn_frequencies(const RopeConfig& rope, std::int64_t head_dim) {
  const auto context = static_cast<double>(rope.original_max_position_embeddings);
  const auto dim = static_cast<double>(head_dim);
  const auto index_of = [&](double rotations) {
    return dim * std::log(context / (rotations * 2.0 * std::numbers::pi)) / (2.0 * std::log(rope.theta));
  };
  double low = index_of(rope.beta_fast), high = index_of(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1.0);
  if (low == high) high += 0.001;  // the ramp becomes a step
  const at::Tensor ramp = ((at::arange(head_dim / 2, at::kFloat) - low) / (high - low)).clamp(0, 1);
  const at::Tensor period = periods(rope.theta, head_dim);
  const at::Tensor kept = 1 - ramp;
  return at::reciprocal(rope.factor * period) * (1 - kept) + at::reciprocal(period) * kept;
}

void check_scaling(const RopeConfig& rope, std::int64_t head_dim) {
  MODELOPT_CHECK(head_dim >= 2 && head_dim % 2 == 0, InvalidArgument, "head_dim is ", head_dim,
                 ", expected an even number for rotary embeddings");
  MODELOPT_CHECK(std::isfinite(rope.theta) && rope.theta > 0, InvalidArgument, "rope_theta is ", rope.theta,
                 ", expected a finite number above 0");
  if (rope.type == RopeType::kDefault) return;
  MODELOPT_CHECK(std::isfinite(rope.factor) && rope.factor >= 1, InvalidArgument, "rope factor is ", rope.factor,
                 ", expected a finite number of at least 1");
  if (rope.type == RopeType::kDynamic) {
    MODELOPT_CHECK(head_dim > 2, InvalidArgument, "head_dim is ", head_dim, ", expected above 2 for rope_type dynamic");
  }
  if (rope.type == RopeType::kLlama3 || rope.type == RopeType::kYarn) {
    MODELOPT_CHECK(rope.original_max_position_embeddings >= 1, InvalidArgument, "original_max_position_embeddings is ",
                   rope.original_max_position_embeddings, ", expected at least 1");
  }
  if (rope.type == RopeType::kLlama3) {
    MODELOPT_CHECK(rope.low_freq_factor > 0 && rope.high_freq_factor > rope.low_freq_factor, InvalidArgument,
                   "low_freq_factor and high_freq_factor are ", rope.low_freq_factor, " and ", rope.high_freq_factor,
                   ", expected 0 < low_freq_factor < high_freq_factor");
  }
  if (rope.type == RopeType::kYarn) {
    MODELOPT_CHECK(rope.beta_slow > 0 && rope.beta_fast >= rope.beta_slow, InvalidArgument,
                   "beta_fast and beta_slow are ", rope.beta_fast, " and ", rope.beta_slow,
                   ", expected 0 < beta_slow <= beta_fast");
  }
}

at::Tensor rotate_half(const at::Tensor& x) {
  const std::int64_t half = x.size(-1) / 2;
  return at::cat({-x.narrow(-1, half, half), x.narrow(-1, 0, half)}, -1);
}

}  // namespace

at::Tensor apply_rotary(const at::Tensor& x, const RotaryTable& table) {
  return (x * table.cos).add_(rotate_half(x).mul_(table.sin));
}

RotaryEmbedding::RotaryEmbedding(RopeConfig rope, std::int64_t head_dim, std::int64_t max_position_embeddings,
                                 at::Device device)
    : torch::nn::Module("RotaryEmbedding"),
      rope_(rope),
      head_dim_(head_dim),
      max_position_embeddings_(max_position_embeddings) {
  check_scaling(rope_, head_dim_);
  inverse_frequencies_ = inverse_frequencies(max_position_embeddings_).to(device);
}

double RotaryEmbedding::attention_factor() const {
  if (rope_.type != RopeType::kYarn) return 1.0;
  if (rope_.attention_factor) return *rope_.attention_factor;
  const auto magnitude = [&](double mscale) {
    return rope_.factor <= 1 ? 1.0 : 0.1 * mscale * std::log(rope_.factor) + 1;
  };
  const double mscale = rope_.mscale.value_or(0), mscale_all_dim = rope_.mscale_all_dim.value_or(0);
  if (mscale != 0 && mscale_all_dim != 0) return magnitude(mscale) / magnitude(mscale_all_dim);
  return magnitude(1);
}

at::Tensor RotaryEmbedding::inverse_frequencies(std::int64_t prompt_length) const {
  switch (rope_.type) {
    case RopeType::kDefault:
      return at::reciprocal(periods(rope_.theta, head_dim_));
    case RopeType::kLinear:
      return at::reciprocal(periods(rope_.theta, head_dim_)) / rope_.factor;
    case RopeType::kDynamic: {
      const auto context = static_cast<double>(max_position_embeddings_);
      const double length = std::max(static_cast<double>(prompt_length), context);
      const auto dim = static_cast<double>(head_dim_);
      const double stretch = rope_.factor * length / context - (rope_.factor - 1);
      return at::reciprocal(periods(rope_.theta * std::pow(stretch, dim / (dim - 2)), head_dim_));
    }
    case RopeType::kLlama3:
      return llama3_frequencies(rope_, at::reciprocal(periods(rope_.theta, head_dim_)));
    case RopeType::kYarn:
      return yarn_frequencies(rope_, head_dim_);
  }
  throw InvalidArgument(str("rope type is ", static_cast<int>(rope_.type), ", expected a member of RopeType"));
}

at::Tensor RotaryEmbedding::angles(const at::Tensor& positions, const std::vector<std::int64_t>& lengths,
                                   const std::vector<std::int64_t>& prompt_lengths) const {
  const at::Tensor rows = positions.to(at::kFloat).unsqueeze(1);
  const bool within_context = std::all_of(prompt_lengths.begin(), prompt_lengths.end(),
                                          [this](std::int64_t length) { return length <= max_position_embeddings_; });
  if (rope_.type != RopeType::kDynamic || within_context) return rows * inverse_frequencies_;
  std::vector<at::Tensor> parts;
  std::int64_t start = 0;
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    parts.push_back(rows.narrow(0, start, lengths[b]) *
                    inverse_frequencies(prompt_lengths[b]).to(rows.device(), /*non_blocking=*/true));
    start += lengths[b];
  }
  return at::cat(parts);
}

RotaryTable RotaryEmbedding::forward(const at::Tensor& positions, const std::vector<std::int64_t>& lengths,
                                     const std::vector<std::int64_t>& prompt_lengths, at::ScalarType dtype) const {
  const at::Tensor half = angles(positions, lengths, prompt_lengths);
  const at::Tensor angle = at::cat({half, half}, -1).unsqueeze(1);
  const double factor = attention_factor();
  return {.cos = (at::cos(angle) * factor).to(dtype), .sin = (at::sin(angle) * factor).to(dtype)};
}

}  // namespace modelopt::models
