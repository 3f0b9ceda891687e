#include <modelopt/eval/statistics.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>

#include <array>
#include <vector>

#include <modelopt/error.h>

namespace modelopt::eval {
namespace {

using Catch::Matchers::Message;
using Catch::Matchers::WithinULP;

TEST_CASE("mean and standard error of the mean") {
  const std::array values = {2.0, 4.0, 4.0, 6.0};
  CHECK(mean(values) == 4.0);
  // sum of squares 8, variance 8/3, over 4 values
  CHECK_THAT(standard_error(values).value(), WithinULP(0.81649658092772603, 1));
}

TEST_CASE("one value has a mean but no standard error") {
  const std::array values = {3.5};
  CHECK(mean(values) == 3.5);
  CHECK_FALSE(standard_error(values).has_value());
}

TEST_CASE("quantiles interpolate between order statistics") {
  const std::array values = {40.0, 10.0, 30.0, 20.0, 50.0};
  CHECK(quantile(values, 0.0) == 10.0);
  CHECK(quantile(values, 0.5) == 30.0);
  CHECK(quantile(values, 1.0) == 50.0);
  CHECK(quantile(values, 0.6) == 34.0);
  CHECK(quantile(std::array{7.0}, 0.99) == 7.0);
}

TEST_CASE("statistics of nothing are refused") {
  const std::vector<double> none;
  CHECK_THROWS_MATCHES(mean(none), InvalidArgument, Message("the mean of 0 values, expected at least 1"));
  CHECK_THROWS_MATCHES(quantile(none, 0.5), InvalidArgument, Message("a quantile of 0 values, expected at least 1"));
  CHECK_THROWS_MATCHES(quantile(std::array{1.0}, 1.5), InvalidArgument, Message("quantile 1.5, expected 0 to 1"));
}

}  // namespace
}  // namespace modelopt::eval
