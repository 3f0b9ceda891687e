#include <modelopt/bench/ratio_plot.h>

#include <catch2/catch_test_macros.hpp>

#include <string>
#include <string_view>

#include <modelopt/error.h>

namespace modelopt::bench {
namespace {

RatioPlot some_plot() {
  return {.title = "A & B",
          .subtitle = "<GPU>",
          .baseline = "best-sdpa",
          .lengths = {512, 4096, 16384},
          .series = {{"sm90/dense", {1.0, 1.1, 1.2}}, {"sm90/2:4", {0.9, std::nullopt, 1.35}}}};
}

std::size_t count(std::string_view text, std::string_view part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string_view::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST_CASE("a plot has a point for each value, lines between neighbours, and names") {
  const std::string svg = to_svg(some_plot());
  CHECK(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""));
  CHECK(svg.ends_with("</svg>\n"));
  CHECK(count(svg, "<circle ") == 5);
  CHECK(count(svg, "stroke=\"#0072b2\" stroke-width=\"2\"") == 3);  // two pieces and the legend
  CHECK(count(svg, "stroke=\"#d55e00\" stroke-width=\"2\"") == 1);  // the gap leaves only the legend
  for (const char* text : {">A &amp; B<", ">&lt;GPU&gt;<", ">512<", ">4k<", ">16k<", ">sm90/2:4<", ">best-sdpa = 1<",
                           "sm90/2:4, 16k: 1.350"})
    CHECK(svg.find(text) != std::string::npos);
}

TEST_CASE("points lie where the axis says") {
  // ticks at 0, 0.5, 1.0 and 1.5: 1.5 is the top of the plot at 76, 0 its bottom at 376
  const std::string svg = to_svg({.title = "",
                                  .subtitle = "",
                                  .baseline = "b",
                                  .lengths = {1},
                                  .series = {{"s", {1.5}}, {"t", {0.75}}, {"u", {0.0}}}});
  for (const char* tick : {">0.0<", ">0.5<", ">1.0<", ">1.5<"}) CHECK(count(svg, tick) == 1);
  CHECK(svg.find("cy=\"76.0\"") != std::string::npos);
  CHECK(svg.find("cy=\"226.0\"") != std::string::npos);
  CHECK(svg.find("cy=\"376.0\"") != std::string::npos);
}

TEST_CASE("a plot needs lengths, and a value or a gap for each of them") {
  CHECK_THROWS_AS(to_svg({}), InvalidArgument);
  RatioPlot plot = some_plot();
  plot.series[1].ratios.pop_back();
  CHECK_THROWS_AS(to_svg(plot), InvalidArgument);
  plot.series.clear();
  CHECK(count(to_svg(plot), "<circle ") == 0);
}

}  // namespace
}  // namespace modelopt::bench
