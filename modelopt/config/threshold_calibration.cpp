#include <modelopt/config/threshold_calibration.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>

#include <modelopt/config/enumeration.h>

namespace modelopt::config {
namespace {

// Where `length` lies in an ascending list: between `below` and the next entry, at `fraction` of the way in ln length.
struct Position {
  std::size_t below = 0;
  double fraction = 0.0;
};

Position position_of(std::int64_t length, const std::vector<std::int64_t>& lengths) {
  if (length <= lengths.front()) return {};
  if (length >= lengths.back()) return {lengths.size() - 1, 0.0};
  const auto above = std::upper_bound(lengths.begin(), lengths.end(), length);
  const auto low = static_cast<double>(*std::prev(above));
  const double fraction = std::log(static_cast<double>(length) / low) / std::log(static_cast<double>(*above) / low);
  return {static_cast<std::size_t>(above - lengths.begin()) - 1, fraction};
}

// "expected 0.02 to 0.35": four significant digits are more than a share is known to.
std::string rounded(double value) {
  std::ostringstream text;
  text.precision(4);
  text << value;
  return text.str();
}

std::string target_at(double target_sparsity, std::int64_t length) {
  return str("target sparsity ", rounded(target_sparsity), " at ", length, " tokens");
}

std::optional<std::string> length_problem(double target_sparsity, std::int64_t length, std::int64_t shortest,
                                          std::int64_t longest) {
  if (length >= shortest && length <= longest) return std::nullopt;
  return str(target_at(target_sparsity, length), ", expected ", shortest, " to ", longest,
             " tokens, the lengths of the calibration");
}

std::optional<std::string> sparsity_problem(double target_sparsity, std::int64_t length, double least, double most,
                                            std::string_view source) {
  if (target_sparsity >= least && target_sparsity <= most) return std::nullopt;
  return str(target_at(target_sparsity, length), ", expected ", rounded(least), " to ", rounded(most), ", ", source);
}

std::optional<std::string> problem_of(const ThresholdTable& table, double target_sparsity, std::int64_t length) {
  if (auto problem = length_problem(target_sparsity, length, table.lengths.front(), table.lengths.back()))
    return problem;
  const std::vector<double> shares = table.shares_at(length);
  return sparsity_problem(target_sparsity, length, shares.front(), shares.back(), "what was measured at this length");
}

std::optional<std::string> problem_of(const ExponentialThreshold& exponential, double target_sparsity,
                                      std::int64_t length) {
  if (const auto& fit = exponential.fit) {
    if (auto problem = length_problem(target_sparsity, length, fit->min_length, fit->max_length)) return problem;
    if (auto problem = sparsity_problem(target_sparsity, length, fit->min_sparsity, fit->max_sparsity,
                                        "the range of the exponential fit"))
      return problem;
  }
  const double threshold = exponential.threshold(target_sparsity, length);
  if (threshold < 1.0) return std::nullopt;
  return str(target_at(target_sparsity, length), ": the exponential fit gives a threshold of ", rounded(threshold),
             ", expected less than 1");
}

}  // namespace

double ExponentialThreshold::threshold(double target_sparsity, std::int64_t length) const {
  return a * std::exp(b * target_sparsity) / static_cast<double>(length);
}

std::vector<double> ThresholdTable::shares_at(std::int64_t length) const {
  const auto [below, fraction] = position_of(length, lengths);
  std::vector<double> result = shares[below];
  if (fraction == 0.0) return result;
  for (std::size_t t = 0; t < result.size(); ++t) result[t] += fraction * (shares[below + 1][t] - result[t]);
  return result;
}

double ThresholdTable::threshold(double target_sparsity, std::int64_t length) const {
  const std::vector<double> share = shares_at(length);
  const auto above = static_cast<std::size_t>(std::lower_bound(share.begin(), share.end(), target_sparsity) -
                                              share.begin());  // the first that reaches the target
  if (above == 0) return thresholds.front();
  if (above == share.size()) return thresholds.back();
  const std::size_t below = above - 1;
  const double fraction = (target_sparsity - share[below]) / (share[above] - share[below]);
  return thresholds[below] * std::pow(thresholds[above] / thresholds[below], fraction);
}

double ThresholdTable::share(double threshold, std::int64_t length) const {
  const std::vector<double> share = shares_at(length);
  if (threshold <= thresholds.front()) return share.front();
  if (threshold >= thresholds.back()) return share.back();
  const auto above =
      static_cast<std::size_t>(std::upper_bound(thresholds.begin(), thresholds.end(), threshold) - thresholds.begin());
  const std::size_t below = above - 1;
  const double fraction = std::log(threshold / thresholds[below]) / std::log(thresholds[above] / thresholds[below]);
  return share[below] + fraction * (share[above] - share[below]);
}

std::optional<std::string> PhaseCalibration::out_of_range(double target_sparsity, std::int64_t length) const {
  return form == CalibrationForm::kTable ? problem_of(table.value(), target_sparsity, length)
                                         : problem_of(exponential.value(), target_sparsity, length);
}

double PhaseCalibration::threshold(double target_sparsity, std::int64_t length, Extrapolation extrapolation) const {
  if (extrapolation == Extrapolation::kRefuse) {
    const auto problem = out_of_range(target_sparsity, length);
    MODELOPT_CHECK(!problem, ConfigError, *problem);
  }
  return form == CalibrationForm::kTable ? table.value().threshold(target_sparsity, length)
                                         : exponential.value().threshold(target_sparsity, length);
}

std::optional<double> PhaseCalibration::largest_sparsity(std::int64_t length) const {
  if (table) return table->shares_at(length).back();
  if (exponential && exponential->fit) return exponential->fit->max_sparsity;
  return std::nullopt;
}

}  // namespace modelopt::config
