#include <modelopt/calibration/threshold_fit.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iomanip>
#include <sstream>

#include <modelopt/error.h>

namespace modelopt::calibration {
namespace {

constexpr std::size_t kLeastPoints = 3;
constexpr double kGoodFit = 0.9;
constexpr double kNotableMiss = 0.03;  // three points of a hundred

struct Point {
  double share = 0.0;
  double ln_scale = 0.0;
  double weight = 1.0;
};

double ratio(std::int64_t part, std::int64_t whole) { return static_cast<double>(part) / static_cast<double>(whole); }

double standard_deviation(const std::vector<double>& values) {
  double mean = 0.0, squares = 0.0;
  for (const double value : values) mean += value / static_cast<double>(values.size());
  for (const double value : values) squares += (value - mean) * (value - mean);
  return std::sqrt(squares / static_cast<double>(values.size()));
}

// Standard deviation over modules of the share that trial `t` skips.
double spread(const BlockCounts& counts, std::size_t t) {
  std::vector<double> shares;
  for (std::size_t m = 0; m < counts.visible.size(); ++m)
    if (counts.visible[m] > 0) shares.push_back(ratio(counts.skipped[m][t], counts.visible[m]));
  return standard_deviation(shares);
}

std::vector<Point> fit_points(const config::ThresholdTable& table, const ExponentialFitOptions& options) {
  const std::vector<double> shares = table.shares_at(options.length);
  std::vector<Point> points;
  for (std::size_t t = 0; t < shares.size(); ++t) {
    if (shares[t] < kLeastFitShare || shares[t] > kMostFitShare) continue;
    const double scale = table.thresholds[t] * static_cast<double>(options.length);
    points.push_back({shares[t], std::log(scale), options.logspace ? 1.0 : scale * scale});
  }
  return points;
}

std::string percent(double share) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(1) << 100.0 * share << " %";
  return text.str();
}

std::string three_digits(double value) {
  std::ostringstream text;
  text << std::setprecision(3) << value;
  return text.str();
}

void remark_on_reach(const config::ThresholdTable& table, double target, std::vector<std::string>& remarks) {
  for (std::size_t i = 0; i < table.lengths.size(); ++i) {
    const double largest = table.shares[i].back();
    if (target > largest)
      remarks.push_back(str("at ", table.lengths[i], " tokens at most ", percent(largest),
                            " of the blocks can be skipped, not ", percent(target)));
    if (target < table.shares[i].front())
      remarks.push_back(str("at ", table.lengths[i], " tokens the smallest trial, ", table.thresholds.front(),
                            ", skips more than the target already: ", percent(table.shares[i].front())));
  }
}

void remark_on_exponential(const config::ExponentialThreshold& exponential, const config::ThresholdTable* table,
                           double target, std::vector<std::string>& remarks) {
  if (!exponential.fit) return;
  const config::ExponentialFit& fit = *exponential.fit;
  if (fit.r_squared < kGoodFit)
    remarks.push_back(str("the exponential a exp(b target) describes the measurements badly: R² is ",
                          three_digits(fit.r_squared), ", expected at least ", kGoodFit));
  if (target < fit.min_sparsity || target > fit.max_sparsity)
    remarks.push_back(str("the target of ", percent(target), " is outside of what the exponential was fitted to, ",
                          percent(fit.min_sparsity), " to ", percent(fit.max_sparsity)));
  if (table == nullptr) return;
  for (const std::int64_t length : table->lengths) {
    const double threshold = exponential.threshold(target, length);
    if (threshold >= 1.0)
      remarks.push_back(str("at ", length, " tokens the exponential needs a threshold of ", three_digits(threshold),
                            ", expected less than 1"));
    const double reachable = std::min(target, table->shares_at(length).back());
    const double skipped = table->share(threshold, length);
    if (std::abs(skipped - reachable) > kNotableMiss)
      remarks.push_back(
          str("at ", length, " tokens the exponential skips ", percent(skipped), " instead of ", percent(reachable)));
  }
}

}  // namespace

config::ThresholdTable make_table(const std::map<std::int64_t, BlockCounts>& counts,
                                  const std::vector<double>& thresholds) {
  config::ThresholdTable table;
  table.thresholds = thresholds;
  table.layer_spread.assign(thresholds.size(), 0.0);
  for (const auto& [length, blocks] : counts) {
    std::int64_t visible = 0;
    for (const std::int64_t module : blocks.visible) visible += module;
    MODELOPT_CHECK(visible > 0, InvalidArgument, "prompts of ", length, " tokens have no visible block");
    table.lengths.push_back(length);
    std::vector<double>& shares = table.shares.emplace_back();
    for (std::size_t t = 0; t < thresholds.size(); ++t) {
      std::int64_t skipped = 0;
      for (const auto& module : blocks.skipped) skipped += module[t];
      shares.push_back(ratio(skipped, visible));
      table.layer_spread[t] += spread(blocks, t) / static_cast<double>(counts.size());
    }
  }
  return table;
}

std::optional<config::ExponentialThreshold> fit_exponential(const config::ThresholdTable& table,
                                                            const ExponentialFitOptions& options) {
  const std::vector<Point> points = fit_points(table, options);
  if (points.size() < kLeastPoints) return std::nullopt;
  double weight = 0.0, x = 0.0, y = 0.0;
  for (const Point& point : points) {
    weight += point.weight;
    x += point.weight * point.share;
    y += point.weight * point.ln_scale;
  }
  x /= weight, y /= weight;
  double xx = 0.0, xy = 0.0, yy = 0.0;
  for (const Point& point : points) {
    const double dx = point.share - x, dy = point.ln_scale - y;
    xx += point.weight * dx * dx;
    xy += point.weight * dx * dy;
    yy += point.weight * dy * dy;
  }
  if (!(xx > 0.0) || !(xy > 0.0)) return std::nullopt;
  const double b = xy / xx;
  config::ExponentialFit fit;
  fit.length = options.length;
  fit.points = std::ssize(points);
  fit.r_squared = std::min(1.0, xy * xy / (xx * yy));  // rounding may take a perfect fit beyond 1
  fit.min_sparsity = points.front().share;
  fit.max_sparsity = points.back().share;
  fit.min_length = table.lengths.front();
  fit.max_length = table.lengths.back();
  return config::ExponentialThreshold{.a = std::exp(y - b * x), .b = b, .fit = fit};
}

std::vector<std::string> calibration_remarks(const config::PhaseCalibration& calibration, double target_sparsity) {
  std::vector<std::string> remarks;
  if (calibration.table) remark_on_reach(*calibration.table, target_sparsity, remarks);
  if (calibration.exponential) {
    remark_on_exponential(*calibration.exponential, calibration.table ? &*calibration.table : nullptr, target_sparsity,
                          remarks);
  } else {
    remarks.push_back(str("fewer than ", kLeastPoints, " trial thresholds skip ", percent(kLeastFitShare), " to ",
                          percent(kMostFitShare),
                          " of the blocks, too few points for the exponential that other runtimes read"));
  }
  return remarks;
}

}  // namespace modelopt::calibration
