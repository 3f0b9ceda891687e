#include <modelopt/methods/nm_softmax.h>

#include <ATen/ops/allclose.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include <catch2/catch_test_macros.hpp>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <kernels/selection.h>

using modelopt::attention::EagerScores;
using modelopt::config::SparseSoftmaxConfig;
using modelopt::methods::keep_n_of_m;
using modelopt::methods::nm_softmax;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// All groups of m scores drawn from `values`.
template <int M>
std::vector<float> all_groups(const std::vector<float>& values) {
  std::vector<float> flat;
  std::vector<std::size_t> digits(M, 0);
  for (;;) {
    for (const std::size_t digit : digits) flat.push_back(values[digit]);
    std::size_t position = 0;
    while (position < M && ++digits[position] == values.size()) digits[position++] = 0;
    if (position == M) return flat;
  }
}

// Groups in which keep_n_of_m differs from the selection rule of the kernels, for any n.
template <int M>
std::size_t disagreements(const std::vector<float>& flat) {
  const auto groups = static_cast<std::int64_t>(flat.size() / M);
  const at::Tensor scores = at::tensor(flat).view({groups, M});
  std::size_t count = 0;
  for (int n = 0; n < M; ++n) {
    const at::Tensor kept = keep_n_of_m(scores, n, M).contiguous();
    const bool* actual = kept.const_data_ptr<bool>();
    for (std::int64_t g = 0; g < groups; ++g) {
      float group[M];
      for (int i = 0; i < M; ++i) group[i] = flat[static_cast<std::size_t>(g * M + i)];
      const std::uint32_t expected = modelopt::kernels::keep_n_of_m<M>(group, (1u << M) - 1, n);
      std::uint32_t bits = 0;
      for (int i = 0; i < M; ++i) bits |= static_cast<std::uint32_t>(actual[g * M + i]) << i;
      count += bits != expected;
    }
  }
  return count;
}

at::Tensor rows(const std::vector<std::vector<float>>& values) {
  std::vector<float> flat;
  for (const auto& row : values) flat.insert(flat.end(), row.begin(), row.end());
  return at::tensor(flat).view({1, static_cast<std::int64_t>(values.size()), -1});
}

at::Tensor mask(const std::vector<std::vector<float>>& values) { return rows(values).to(at::kBool); }

}  // namespace

TEST_CASE("the eager selection is the kernels' on all groups of 4") {
  CHECK(disagreements<4>(all_groups<4>({-kInf, -1.5f, 0.0f, 2.0f, 3.0f, kInf, kNaN})) == 0);
}

TEST_CASE("the eager selection is the kernels' on all groups of 8 of three values, and on random ones") {
  CHECK(disagreements<8>(all_groups<8>({-kInf, 0.0f, 1.0f})) == 0);
  std::mt19937 random(7);
  std::vector<float> flat;
  const std::vector<float> values = {-kInf, -3.0f, -0.0f, 0.0f, 1e-30f, 1.0f, 2.0f, kInf, kNaN};
  std::uniform_int_distribution<std::size_t> pick(0, values.size() - 1);
  std::normal_distribution<float> normal;
  for (int i = 0; i < 8 * 60000; ++i) flat.push_back(values[pick(random)]);
  for (int i = 0; i < 8 * 60000; ++i) flat.push_back(normal(random));
  CHECK(disagreements<8>(flat) == 0);
}

TEST_CASE("a last group of fewer keys is filled up with keys that are not visible") {
  CHECK(at::equal(keep_n_of_m(rows({{3, 1, 3, 3, 5, 7, 6}}), 2, 4), mask({{1, 0, 1, 0, 0, 1, 1}})));
  CHECK(at::equal(keep_n_of_m(rows({{1}}), 2, 4), mask({{1}})));
}

TEST_CASE("the groups worked by hand") {
  CHECK(at::equal(keep_n_of_m(rows({{3, 1, 3, 3}, {1, 1, 1, 1}, {2, -kInf, -kInf, -kInf}}), 2, 4),
                  mask({{1, 0, 1, 0}, {1, 1, 0, 0}, {1, 0, 0, 0}})));
}

TEST_CASE("sinks and window are exact to the token, by absolute position") {
  // all keys are visible; those kept are 4 and 5, 8 and 9, … by ties
  const SparseSoftmaxConfig parameters{.sparsity_n = 1, .sparsity_m = 4, .num_sink_tokens = 3, .dense_window_size = 2};
  const auto softmax = nm_softmax({.raw = at::zeros({1, 2, 12}), .scale = 1.0, .first_position = 9}, parameters);
  CHECK(
      at::equal(softmax.attended, mask({{1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 0, 0}, {1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0}})));
}

TEST_CASE("the softmax runs over the attended keys, on scaled scores") {
  const auto softmax = nm_softmax({.raw = rows({{4, 1, 2, 3}}), .scale = 0.5, .first_position = 100},
                                  {.sparsity_n = 2, .sparsity_m = 4, .num_sink_tokens = 0, .dense_window_size = 0});
  const double a = std::exp(2.0), b = std::exp(1.5);
  const at::Tensor expected = at::tensor(std::vector<double>{a / (a + b), 0, 0, b / (a + b)}).view({1, 1, 4});
  CHECK(at::allclose(softmax.probabilities.to(at::kDouble), expected, 1e-6, 1e-7));
  CHECK(softmax.probabilities[0][0][1].item<float>() == 0.0f);
}

TEST_CASE("a row that sees no key has zero probabilities") {
  const auto softmax = nm_softmax({.raw = at::full({1, 1, 5}, -kInf), .scale = 1.0, .first_position = 0}, {});
  CHECK(at::equal(softmax.probabilities, at::zeros({1, 1, 5})));
  CHECK_FALSE(softmax.attended.any().item<bool>());
}

TEST_CASE("a row that sees NaN or +inf is NaN, whatever the selection drops; other rows are not") {
  for (const float poison : {kNaN, kInf}) {
    const auto softmax =
        nm_softmax({.raw = rows({{5, 6, poison, 7}, {5, 6, -kInf, 7}}), .scale = 1.0, .first_position = 2},
                   {.sparsity_n = 1, .sparsity_m = 4, .num_sink_tokens = 0, .dense_window_size = 0});
    CHECK(softmax.probabilities[0][0].isnan().all().item<bool>());
    CHECK_FALSE(softmax.probabilities[0][1].isnan().any().item<bool>());
  }
}

TEST_CASE("the gradient flows through the attended scores alone") {
  const at::Tensor raw = rows({{4, 1, 2, 3}}).requires_grad_();
  const auto softmax = nm_softmax({.raw = raw, .scale = 1.0, .first_position = 100},
                                  {.sparsity_n = 2, .sparsity_m = 4, .num_sink_tokens = 0, .dense_window_size = 0});
  const auto gradient = torch::autograd::grad({softmax.probabilities[0][0][0]}, {raw})[0];
  const double p = std::exp(4.0) / (std::exp(4.0) + std::exp(3.0));
  const at::Tensor expected = at::tensor(std::vector<double>{p * (1 - p), 0, 0, -p * (1 - p)}).view({1, 1, 4});
  CHECK(at::allclose(gradient.to(at::kDouble), expected, 1e-5, 1e-7));
  CHECK(gradient[0][0][1].item<float>() == 0.0f);
}
