// The comparisons that the other tests rely on must fail where they should.
#include <ATen/ops/full.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <catch2/catch_test_macros.hpp>

#include <limits>

#include "kernels/attention_cases.h"

using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;

namespace {
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
const at::Tensor& tolerance() {
  static const at::Tensor value = at::full({}, 0.1);
  return value;
}
}  // namespace

TEST_CASE("comparison: finite values within the tolerance, and infinities and NaN at the same places", "[cases]") {
  const at::Tensor expected = at::tensor({1.0f, kInf, -kInf, kNaN});
  CHECK(difference(at::tensor({1.05f, kInf, -kInf, kNaN}), expected, tolerance()) == "");
  CHECK(difference(at::tensor({1.5f, kInf, -kInf, kNaN}), expected, tolerance()) ==
        "[0] is 1.5, expected 1 within 0.1");
  CHECK(difference(at::tensor({kNaN, kInf, -kInf, kNaN}), expected, tolerance()) ==
        "[0] is nan, expected 1 within 0.1");
  CHECK(difference(at::tensor({1.0f, -kInf, -kInf, kNaN}), expected, tolerance()) ==
        "[1] is -inf, expected inf within 0.1");
  CHECK(difference(at::tensor({1.0f, kInf, -kInf, 0.0f}), expected, tolerance()) ==
        "[3] is 0, expected nan within 0.1");
  CHECK(difference(at::zeros({3}), expected, tolerance()) == "shape [3], expected [4]");
}

TEST_CASE("comparison: the worst element is named", "[cases]") {
  at::Tensor actual = at::zeros({2, 3});
  actual[0][1] = 1.0;
  actual[1][2] = -7.0;
  CHECK(difference(actual, at::zeros({2, 3}), tolerance()) == "[1, 2] is -7, expected 0 within 0.1");
}

TEST_CASE("comparison: bitwise", "[cases]") {
  const at::Tensor one = at::full({2}, 1.0f);
  CHECK(bitwise_difference(one, one.clone()) == "");
  CHECK(bitwise_difference(one, one.add(5e-8)) == "");  // rounds to 1
  CHECK(bitwise_difference(one.add(1.2e-7), one) != "");
  CHECK(bitwise_difference(one.to(at::kDouble), one) == "dtype Double, expected Float");
}

TEST_CASE("comparison: poisoned problems hold NaN wherever no sequence reads", "[cases]") {
  const CaseShape shape{.lengths = {{3, 4}}, .head_dim = 8, .storage = Storage::kPoisoned};
  const AttentionArgs args = make_args(shape);
  CHECK(args.q.size(0) == 9);
  CHECK(args.q.isnan().sum().item<std::int64_t>() == 6 * 2 * 8);
  CHECK_FALSE(args.q.is_contiguous());
  CHECK(args.q.stride(2) == 1);
  CHECK(args.k.narrow(0, 3, 4).isfinite().all().item<bool>());
  CHECK(bitwise_difference(make_args(shape).q, args.q) == "");
}

TEST_CASE("comparison: attention under a mask is softmax over the mask", "[cases]") {
  AttentionArgs args = make_args({.lengths = {{1, 3}}, .heads = 1, .head_dim = 1, .dtype = at::kDouble});
  args.q.fill_(1.0);
  args.k = at::tensor({0.0, 5.0, std::log(3.0)}).view({3, 1, 1}).to(at::kDouble);
  args.v = at::tensor({8.0, 100.0, 4.0}).view({3, 1, 1}).to(at::kDouble);
  at::Tensor mask = at::full({1, 1, 3}, true, at::kBool);
  mask[0][0][1] = false;
  const Expected expected = attend_under_mask(args, mask);
  CHECK(difference(expected.output, at::full({1, 1, 1}, 5.0), at::full({}, 1e-12)) == "");  // (8 + 3 * 4) / 4
  CHECK(difference(expected.logsumexp, at::full({1, 1}, std::log(4.0), at::kDouble), at::full({}, 1e-12)) == "");
  const Expected none = attend_under_mask(args, at::zeros({1, 1, 3}, at::kBool));
  CHECK(none.output.item<double>() == 0.0);
  CHECK(none.logsumexp.item<double>() == -kInf);
}
