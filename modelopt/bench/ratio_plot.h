// A line chart as SVG: speed relative to a baseline, over sequence lengths.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace modelopt::bench {

struct RatioSeries {
  std::string name;
  std::vector<std::optional<double>> ratios;  ///< one per length; nullopt leaves a gap
};

struct RatioPlot {
  std::string title;
  std::string subtitle;
  std::string baseline;  ///< what 1.0 is
  std::vector<std::int64_t> lengths;
  std::vector<RatioSeries> series;
};

/// A stand-alone SVG document. Lengths are evenly spaced in their order, the vertical axis begins at 0.
/// Throws InvalidArgument unless there are lengths and each series has one value or gap for each of them.
[[nodiscard]] std::string to_svg(const RatioPlot& plot);

}  // namespace modelopt::bench
