#include <modelopt/models/rms_norm.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/_fused_rms_norm.h>
#include <ATen/ops/rsqrt.h>

#include <optional>
#include <tuple>

#include <modelopt/models/linear.h>

namespace modelopt::models {

RMSNorm::RMSNorm(std::int64_t size, double eps, at::ScalarType dtype, at::Device device)
    : torch::nn::Module("RMSNorm"),
      weight_(register_parameter("weight", placeholder_parameter({size}, dtype, device), false)),
      eps_(eps) {}

at::Tensor RMSNorm::forward(const at::Tensor& input) const {
  if (input.is_cuda()) {  // one kernel, without its weight, which it would apply before it rounds
    return std::get<0>(at::_fused_rms_norm(input, weight_.sizes(), std::nullopt, eps_)).mul_(weight_);
  }
  const at::Tensor x = input.to(at::kFloat);
  const at::Tensor variance = x.square().mean(-1, /*keepdim=*/true);
  return (x * at::rsqrt(variance + eps_)).to(input.scalar_type()).mul_(weight_);
}

}  // namespace modelopt::models
