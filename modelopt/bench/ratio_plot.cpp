#include <modelopt/bench/ratio_plot.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include <modelopt/error.h>

namespace modelopt::bench {
namespace {

// Colours that stay apart for the colour-blind too (Okabe and Ito), and a dash once they are used up.
constexpr std::array<const char*, 7> kColors = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                "#e69f00", "#56b4e9", "#5f5f5f"};

constexpr double kWidth = 860;
constexpr double kLeft = 64;
constexpr double kRight = 660;  // the legend is to the right of it
constexpr double kTop = 76;
constexpr double kPlotHeight = 300;
constexpr double kBottom = kTop + kPlotHeight;
constexpr double kLegendStep = 20;

std::string number(double value, int digits) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.*f", digits, value);
  return buffer;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string length_label(std::int64_t length) {
  return length >= 1024 && length % 1024 == 0 ? str(length / 1024, "k") : str(length);
}

/// Ticks from 0 to the first one that is not below the largest value (and 1.0), at a distance of 1, 2 or 5 × 10^k.
struct VerticalAxis {
  double step = 0.0;
  int steps = 0;

  explicit VerticalAxis(double largest) {
    const double wanted = largest / 6;
    const double decade = std::pow(10.0, std::floor(std::log10(wanted)));
    step = 10 * decade;
    for (const double factor : {5.0, 2.0, 1.0})
      if (factor * decade >= wanted) step = factor * decade;
    steps = static_cast<int>(std::ceil(largest / step - 1e-9));
  }

  [[nodiscard]] double y(double value) const { return kBottom - kPlotHeight * value / (step * steps); }
  [[nodiscard]] int digits() const { return std::max(0, static_cast<int>(-std::floor(std::log10(step) + 1e-9))); }
};

class Drawing {
 public:
  explicit Drawing(const RatioPlot& plot) : plot_(plot), axis_(largest_ratio(plot)) {}

  std::string draw() {
    const double legend_end = kTop + kLegendStep * static_cast<double>(plot_.series.size() + 1);
    const double height = std::max(kBottom + 56, legend_end + 16);
    out_ = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + number(kWidth, 0) + "\" height=\"" +
           number(height, 0) + "\" viewBox=\"0 0 " + number(kWidth, 0) + " " + number(height, 0) +
           "\" font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#333333\">\n";
    out_ += "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n";
    text(kLeft, 30, plot_.title, "font-size=\"17\" font-weight=\"600\" fill=\"#111111\"");
    text(kLeft, 51, plot_.subtitle, "fill=\"#666666\"");
    draw_axes();
    for (std::size_t i = 0; i < plot_.series.size(); ++i) draw_series(i);
    return out_ + "</svg>\n";
  }

 private:
  static double largest_ratio(const RatioPlot& plot) {
    double largest = 1.0;
    for (const RatioSeries& series : plot.series)
      for (const auto& ratio : series.ratios) largest = std::max(largest, ratio.value_or(0.0));
    return largest;
  }

  [[nodiscard]] double x(std::size_t index) const {
    const auto count = static_cast<double>(plot_.lengths.size());
    return kLeft + (kRight - kLeft) * (static_cast<double>(index) + 0.5) / count;
  }

  void text(double x, double y, const std::string& content, const std::string& attributes) {
    out_ += "<text x=\"" + number(x, 1) + "\" y=\"" + number(y, 1) + "\" " + attributes + ">" + escaped(content) +
            "</text>\n";
  }

  void line(double x1, double y1, double x2, double y2, const std::string& attributes) {
    out_ += "<line x1=\"" + number(x1, 1) + "\" y1=\"" + number(y1, 1) + "\" x2=\"" + number(x2, 1) + "\" y2=\"" +
            number(y2, 1) + "\" " + attributes + "/>\n";
  }

  void draw_axes() {
    for (int i = 0; i <= axis_.steps; ++i) {
      const double value = axis_.step * i;
      line(kLeft, axis_.y(value), kRight, axis_.y(value), i == 0 ? "stroke=\"#999999\"" : "stroke=\"#e6e6e6\"");
      text(kLeft - 8, axis_.y(value) + 4.5, number(value, axis_.digits()), "text-anchor=\"end\"");
    }
    for (std::size_t i = 0; i < plot_.lengths.size(); ++i) {
      line(x(i), kBottom, x(i), kBottom + 5, "stroke=\"#999999\"");
      text(x(i), kBottom + 21, length_label(plot_.lengths[i]), "text-anchor=\"middle\"");
    }
    text((kLeft + kRight) / 2, kBottom + 44, "sequence length", "text-anchor=\"middle\" fill=\"#666666\"");
    line(kLeft, axis_.y(1.0), kRight, axis_.y(1.0), "stroke=\"#333333\" stroke-dasharray=\"5 4\"");
    line(kRight + 20, kTop, kRight + 44, kTop, "stroke=\"#333333\" stroke-dasharray=\"5 4\"");
    text(kRight + 52, kTop + 4.5, plot_.baseline + " = 1", "");
  }

  void draw_series(std::size_t index) {
    const RatioSeries& series = plot_.series[index];
    const std::string color = kColors[index % kColors.size()];
    const std::string dash = index < kColors.size() ? "" : " stroke-dasharray=\"2 3\"";
    const std::string stroke = "stroke=\"" + color + "\" stroke-width=\"2\"" + dash;
    for (std::size_t i = 0; i < series.ratios.size(); ++i) {
      if (!series.ratios[i]) continue;
      if (i > 0 && series.ratios[i - 1])
        line(x(i - 1), axis_.y(*series.ratios[i - 1]), x(i), axis_.y(*series.ratios[i]), stroke);
      out_ += "<circle cx=\"" + number(x(i), 1) + "\" cy=\"" + number(axis_.y(*series.ratios[i]), 1) +
              "\" r=\"3.5\" fill=\"" + color + "\"><title>" + escaped(series.name) + ", " +
              length_label(plot_.lengths[i]) + ": " + number(*series.ratios[i], 3) + "</title></circle>\n";
    }
    const double y = kTop + kLegendStep * static_cast<double>(index + 1);
    line(kRight + 20, y, kRight + 44, y, stroke);
    text(kRight + 52, y + 4.5, series.name, "");
  }

  const RatioPlot& plot_;
  VerticalAxis axis_;
  std::string out_;
};

}  // namespace

std::string to_svg(const RatioPlot& plot) {
  MODELOPT_CHECK(!plot.lengths.empty(), InvalidArgument, "a plot without lengths, expected at least one");
  for (const RatioSeries& series : plot.series)
    MODELOPT_CHECK(series.ratios.size() == plot.lengths.size(), InvalidArgument, "series ", series.name, " has ",
                   series.ratios.size(), " values, expected ", plot.lengths.size(), ", one per length");
  return Drawing(plot).draw();
}

}  // namespace modelopt::bench
