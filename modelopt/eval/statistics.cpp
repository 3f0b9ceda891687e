#include <modelopt/eval/statistics.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include <modelopt/error.h>

namespace modelopt::eval {

double mean(std::span<const double> values) {
  MODELOPT_CHECK(!values.empty(), InvalidArgument, "the mean of 0 values, expected at least 1");
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

std::optional<double> standard_error(std::span<const double> values) {
  const double center = mean(values);
  if (values.size() == 1) return std::nullopt;
  double squares = 0.0;
  for (const double value : values) squares += (value - center) * (value - center);
  const auto n = static_cast<double>(values.size());
  return std::sqrt(squares / (n - 1.0) / n);
}

double quantile(std::span<const double> values, double q) {
  MODELOPT_CHECK(!values.empty(), InvalidArgument, "a quantile of 0 values, expected at least 1");
  MODELOPT_CHECK(q >= 0.0 && q <= 1.0, InvalidArgument, "quantile ", q, ", expected 0 to 1");
  std::vector<double> sorted(values.begin(), values.end());
  const double position = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  const auto nth = sorted.begin() + static_cast<std::ptrdiff_t>(below);
  std::nth_element(sorted.begin(), nth, sorted.end());
  if (below + 1 == sorted.size()) return *nth;
  const double above = *std::min_element(nth + 1, sorted.end());
  return *nth + (position - static_cast<double>(below)) * (above - *nth);
}

}  // namespace modelopt::eval
