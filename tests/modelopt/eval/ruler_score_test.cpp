#include <modelopt/eval/ruler_score.h>

#include <catch2/catch_test_macros.hpp>

#include <string>
#include <vector>

#include <modelopt/error.h>

using namespace modelopt;
using namespace modelopt::eval;

TEST_CASE("an answer is found wherever it stands, whatever its case") {
  const std::vector<std::string> answers = {"Amber-Harbor", "1234567"};
  CHECK(missing_answers("it is amber-HARBOR, and 1234567.", answers).empty());
  CHECK(missing_answers("amber harbor 123456", answers) == answers);
  CHECK(missing_answers("x1234567y", answers) == std::vector<std::string>{"Amber-Harbor"});
  CHECK(missing_answers("", answers) == answers);
}

TEST_CASE("the bootstrap interval of equal values is their value") {
  const Interval interval = bootstrap_interval(std::vector<double>(10, 0.25), 1);
  CHECK(interval.low == 0.25);
  CHECK(interval.high == 0.25);
}

TEST_CASE("the bootstrap interval of a proportion is that of the binomial distribution") {
  std::vector<double> values(100, 0.0);
  for (std::size_t i = 0; i < 50; ++i) values[i] = 1.0;
  // means of 100 draws: 2.5 % and 97.5 % quantiles of Binomial(100, 1/2) / 100 are 0.40 and 0.60
  const Interval interval = bootstrap_interval(values, 7);
  CHECK((interval.low >= 0.39 && interval.low <= 0.41));
  CHECK((interval.high >= 0.59 && interval.high <= 0.61));
  const Interval again = bootstrap_interval(values, 7);
  CHECK(again.low == interval.low);
  CHECK(again.high == interval.high);
}

TEST_CASE("no values have no interval") { CHECK_THROWS_AS(bootstrap_interval({}, 1), InvalidArgument); }
