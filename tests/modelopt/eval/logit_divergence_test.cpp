#include <modelopt/eval/logit_divergence.h>

#include <ATen/Parallel.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <modelopt/error.h>

#include "modelopt/eval/tiny_model.h"

namespace modelopt::eval {
namespace {

using Catch::Matchers::Message;
using Catch::Matchers::WithinAbs;

// Softmax of one row, written out in double precision.
std::vector<double> probabilities(const at::Tensor& logits) {
  const at::Tensor row = logits.to(at::kDouble);
  const double* x = row.const_data_ptr<double>();
  std::vector<double> p(static_cast<std::size_t>(row.numel()));
  double sum = 0.0;
  for (std::size_t i = 0; i < p.size(); ++i) sum += p[i] = std::exp(x[i]);
  for (double& value : p) value /= sum;
  return p;
}

std::size_t index_of_largest(const std::vector<double>& values) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < values.size(); ++i)
    if (values[i] > values[best]) best = i;
  return best;
}

TEST_CASE("likelihood, divergence and agreement are those of the definition, at every position") {
  const auto model = test::load_tiny_model();
  const std::int64_t rows = 300;  // more than one piece of the head's product
  const std::int64_t width = model->config().hidden_size;
  const at::Tensor dense = at::randn({rows, width});
  const at::Tensor sparse = dense + 0.3 * at::randn({rows, width});
  const auto targets = test::some_ids(rows, model->config().vocab_size);
  const LogitComparison result = compare_logits(*model, dense, {sparse, dense}, targets);

  REQUIRE(result.sparse.size() == 2);
  const at::Tensor dense_logits = model->logits(dense);
  const at::Tensor sparse_logits = model->logits(sparse);
  std::size_t disagreements = 0;
  for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) {
    const auto p = probabilities(dense_logits[static_cast<std::int64_t>(r)]);
    const auto q = probabilities(sparse_logits[static_cast<std::int64_t>(r)]);
    const auto target = static_cast<std::size_t>(targets[r]);
    double kld = 0.0;
    for (std::size_t i = 0; i < p.size(); ++i) kld += p[i] * std::log(p[i] / q[i]);
    // The head's product may round differently in pieces of another shape: fp32 logits of order 1.
    CHECK_THAT(result.dense_nll[r], WithinAbs(-std::log(p[target]), 1e-5));
    CHECK_THAT(result.sparse[0].nll[r], WithinAbs(-std::log(q[target]), 1e-5));
    CHECK_THAT(result.sparse[0].kld[r], WithinAbs(kld, 1e-5));
    CHECK(result.sparse[0].top1[r] == (index_of_largest(p) == index_of_largest(q)));
    disagreements += result.sparse[0].top1[r] == 0;
    CHECK(result.sparse[1].kld[r] == 0.0);
    CHECK(result.sparse[1].top1[r] == 1);
    CHECK(result.sparse[1].nll[r] == result.dense_nll[r]);
  }
  CHECK(disagreements > 0);
  CHECK(disagreements < static_cast<std::size_t>(rows));
}

TEST_CASE("the comparison does not depend on the number of threads") {
  const auto model = test::load_tiny_model();
  const at::Tensor dense = at::randn({40, model->config().hidden_size});
  const at::Tensor sparse = at::randn({40, model->config().hidden_size});
  at::set_num_threads(2);
  const auto two = compare_logits(*model, dense, {sparse}, {});
  at::set_num_threads(1);
  const auto one = compare_logits(*model, dense, {sparse}, {});
  CHECK(one.sparse[0].kld == two.sparse[0].kld);
  CHECK(one.sparse[0].nll.empty());
  CHECK(one.dense_nll.empty());
}

TEST_CASE("shapes, targets and numbers are checked") {
  const auto model = test::load_tiny_model();
  const at::Tensor hidden = at::randn({3, 64});
  const std::vector<std::int64_t> two = {1, 2};
  const std::vector<std::int64_t> outside = {1, 2, 320};
  CHECK_THROWS_MATCHES(compare_logits(*model, hidden, {at::randn({2, 64})}, {}), InvalidArgument,
                       Message("hidden states are [2, 64], expected [3, 64]"));
  CHECK_THROWS_MATCHES(compare_logits(*model, hidden[0], {}, {}), InvalidArgument,
                       Message("hidden states have 1 dimensions, expected 2"));
  CHECK_THROWS_MATCHES(compare_logits(*model, hidden, {}, two), InvalidArgument,
                       Message("2 targets for 3 rows of hidden states"));
  CHECK_THROWS_MATCHES(compare_logits(*model, hidden, {}, outside), InvalidArgument,
                       Message("target 320, expected a token id below 320"));
  const at::Tensor broken = at::full({3, 64}, std::numeric_limits<float>::quiet_NaN());
  CHECK_THROWS_MATCHES(compare_logits(*model, hidden, {broken}, {}), Error,
                       Message("the model's logits are not finite, expected numbers"));
  CHECK_THROWS_MATCHES(compare_logits(*model, broken, {}, {}), Error,
                       Message("the model's logits are not finite, expected numbers"));
}

}  // namespace
}  // namespace modelopt::eval
