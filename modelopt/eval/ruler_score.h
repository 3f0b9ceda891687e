// Scoring answers to RULER prompts (arXiv 2404.06654, section 3): string match.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace modelopt::eval {

/// The answers that do not occur in the prediction, whatever the case of ASCII letters.
[[nodiscard]] std::vector<std::string> missing_answers(std::string_view prediction,
                                                       const std::vector<std::string>& answers);

struct Interval {
  double low = 0.0;
  double high = 0.0;
};

/// 95 % interval of the mean by the percentile bootstrap: quantiles of the means of 2000 resamples. The same values and
/// seed give the same interval. Throws InvalidArgument for no values.
[[nodiscard]] Interval bootstrap_interval(std::span<const double> values, std::uint64_t seed);

}  // namespace modelopt::eval
