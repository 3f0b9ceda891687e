// Summaries of samples, in double precision.
#pragma once

#include <optional>
#include <span>

namespace modelopt::eval {

/// Like the functions below, throws InvalidArgument for no values.
[[nodiscard]] double mean(std::span<const double> values);

/// Standard error of the mean of independent values: sqrt(Σ (x − mean)² / (n − 1) / n). One value has none.
[[nodiscard]] std::optional<double> standard_error(std::span<const double> values);

/// The q-quantile, 0 <= q <= 1, interpolated linearly at position q · (n − 1) of the sorted values (numpy's default).
[[nodiscard]] double quantile(std::span<const double> values, double q);

}  // namespace modelopt::eval
