#include <modelopt/models/rms_norm.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>

#include <catch2/catch_test_macros.hpp>

#include <cmath>

using modelopt::models::RMSNorm;

TEST_CASE("RMSNorm divides by the root of the mean square plus eps") {
  RMSNorm norm(2, 0.5, at::kFloat, at::kCPU);
  norm.parameters()[0].set_data(at::tensor({2.0F, 10.0F}));
  // mean square of (1, 2.645751) is 4; of (0, 0) is 0
  const at::Tensor y = norm.forward(at::tensor({1.0F, 2.6457513F, 0.0F, 0.0F}).view({2, 2}));
  CHECK(std::abs(y[0][0].item<double>() - 2.0 / 2.1213203) < 1e-6);
  CHECK(std::abs(y[0][1].item<double>() - 10.0 * 2.6457513 / 2.1213203) < 1e-5);
  CHECK(at::equal(y[1], at::tensor({0.0F, 0.0F})));
}

TEST_CASE("RMSNorm of bf16 normalises in fp32, rounds, then applies the weight") {
  RMSNorm norm(3, 0.0, at::kBFloat16, at::kCPU);
  const at::Tensor weight = at::tensor({1.0F, 1.0078125F, 3.015625F}).to(at::kBFloat16);
  norm.parameters()[0].set_data(weight);
  const at::Tensor x = at::tensor({1.0F, 2.0F, 300.0F}).to(at::kBFloat16);
  const double root = std::sqrt((1.0 + 4.0 + 90000.0) / 3.0);
  const at::Tensor normalised = at::tensor({1.0 / root, 2.0 / root, 300.0 / root}, at::kFloat).to(at::kBFloat16);
  const at::Tensor y = norm.forward(x);
  CHECK(y.scalar_type() == at::kBFloat16);
  CHECK(at::equal(y, weight * normalised));
}
