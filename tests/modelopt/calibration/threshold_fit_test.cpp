#include <modelopt/calibration/threshold_fit.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <modelopt/error.h>

using namespace modelopt;
using namespace modelopt::calibration;
using Catch::Matchers::WithinAbs;
using Catch::Matchers::WithinRel;
using config::PhaseCalibration;
using config::ThresholdTable;

namespace {

const std::vector<double> kTrials = {1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 0.9999};

// Share that λ skips if λ = a exp(b share) / length.
double share_of(double threshold, double length, double a, double b) {
  return std::clamp(std::log(threshold * length / a) / b, 0.0, 1.0);
}

// Counts of two modules, of a million blocks each, that follow the exponential; `offset` moves them apart.
BlockCounts counts_of(double length, double a, double b, double offset = 0.0) {
  BlockCounts counts(2, kTrials.size());
  for (std::size_t m = 0; m < 2; ++m) {
    counts.visible[m] = 1000000;
    for (std::size_t t = 0; t < kTrials.size(); ++t) {
      const double share = share_of(kTrials[t], length, a, b) + (m == 0 ? offset : -offset);
      counts.skipped[m][t] = std::llround(1e6 * std::clamp(share, 0.0, 1.0));
    }
  }
  return counts;
}

PhaseCalibration calibrated(const std::map<std::int64_t, BlockCounts>& counts, std::int64_t length) {
  PhaseCalibration phase;
  phase.table = make_table(counts, kTrials);
  phase.exponential = fit_exponential(*phase.table, {.length = length});
  return phase;
}

std::vector<std::string> remarks(const PhaseCalibration& phase, double target) {
  return calibration_remarks(phase, target);
}

}  // namespace

TEST_CASE("a and b of synthetic counts are found again") {
  for (const bool logspace : {true, false}) {
    const ThresholdTable table = make_table({{4096, counts_of(4096, 7.9, 8.6)}}, kTrials);
    const auto fit = fit_exponential(table, {.length = 4096, .logspace = logspace});
    REQUIRE(fit);
    CHECK_THAT(fit->a, WithinRel(7.9, 1e-4));
    CHECK_THAT(fit->b, WithinRel(8.6, 1e-4));
    CHECK(fit->fit->r_squared > 0.999999);
    CHECK(fit->fit->length == 4096);
    CHECK(fit->fit->points == 5);  // 1e-2 to 0.9999: 0.19, 0.32, 0.46, 0.59, 0.73
    CHECK_THAT(fit->fit->min_sparsity, WithinAbs(share_of(1e-2, 4096, 7.9, 8.6), 1e-6));
    CHECK_THAT(fit->fit->max_sparsity, WithinAbs(share_of(0.9999, 4096, 7.9, 8.6), 1e-6));
  }
}

TEST_CASE("R² of a perfect fit is at most 1, whatever its sums round to") {
  for (int i = 0; i < 200; ++i) {
    const double a = 2.0 + 0.13 * i, b = 8.0 + 0.02 * i;
    ThresholdTable table;
    table.lengths = {4096};
    table.thresholds = kTrials;
    table.shares = {{}};
    for (const double trial : kTrials) table.shares[0].push_back(share_of(trial, 4096, a, b));
    table.layer_spread.assign(kTrials.size(), 0.0);
    for (const bool logspace : {true, false}) {
      const auto fit = fit_exponential(table, {.length = 4096, .logspace = logspace});
      REQUIRE(fit);
      CHECK(fit->fit->r_squared <= 1.0);
      CHECK(fit->fit->r_squared > 1.0 - 1e-12);
    }
  }
}

TEST_CASE("squared errors of the scale weigh the large scales more") {
  ThresholdTable table;
  table.lengths = {1000};
  table.thresholds = {0.001, 0.01, 0.1};
  table.shares = {{0.2, 0.5, 0.6}};
  table.layer_spread = {0.0, 0.0, 0.0};
  const auto fit = [&](bool logspace) { return *fit_exponential(table, {.length = 1000, .logspace = logspace}); };
  // by hand: weights 1, 1e2 and 1e4 leave the first point no say: the line through the other two in ln scale
  CHECK_THAT(fit(false).threshold(0.6, 1000), WithinRel(0.1, 0.01));
  CHECK_THAT(fit(false).b, WithinRel(std::log(10.0) / 0.1, 0.3));
  // weights of 1: b = Σ dx dy / Σ dx², with x = 0.2, 0.5, 0.6 and y = ln 1, ln 10, ln 100
  const double mean = 1.3 / 3.0, ten = std::log(10.0);
  const double xy = (0.2 - mean) * -ten + (0.6 - mean) * ten;
  const double xx = (0.2 - mean) * (0.2 - mean) + (0.5 - mean) * (0.5 - mean) + (0.6 - mean) * (0.6 - mean);
  CHECK_THAT(fit(true).b, WithinRel(xy / xx, 1e-12));
  CHECK_THAT(fit(true).fit->r_squared, WithinRel(xy * xy / (xx * 2.0 * ten * ten), 1e-12));
}

TEST_CASE("the table holds the share of all modules together, and how far they lie apart") {
  BlockCounts counts(2, 2);
  counts.visible = {100, 300};
  counts.skipped = {{10, 50}, {90, 270}};
  BlockCounts longer(2, 2);
  longer.visible = {1, 1};
  longer.skipped = {{0, 1}, {0, 1}};
  const ThresholdTable table = make_table({{512, counts}, {1024, longer}}, {0.1, 0.5});
  CHECK(table.lengths == std::vector<std::int64_t>{512, 1024});
  CHECK(table.shares == std::vector<std::vector<double>>{{0.25, 0.8}, {0.0, 1.0}});
  // modules at 512: 0.1 and 0.3, 0.5 and 0.9; at 1024 none: the mean over the two lengths
  CHECK_THAT(table.layer_spread[0], WithinAbs(0.05, 1e-12));
  CHECK_THAT(table.layer_spread[1], WithinAbs(0.1, 1e-12));
}

TEST_CASE("counts of two prompts add up") {
  BlockCounts sum = counts_of(4096, 7.9, 8.6);
  sum += counts_of(4096, 7.9, 8.6);
  CHECK(sum.visible == std::vector<std::int64_t>{2000000, 2000000});
  CHECK(make_table({{4096, sum}}, kTrials) == make_table({{4096, counts_of(4096, 7.9, 8.6)}}, kTrials));
}

TEST_CASE("prompts without a visible block are refused") {
  CHECK_THROWS_MATCHES(make_table({{512, BlockCounts(1, 1)}}, {0.1}), InvalidArgument,
                       Catch::Matchers::Message("prompts of 512 tokens have no visible block"));
}

TEST_CASE("too few points, or points without a slope, have no exponential") {
  ThresholdTable table;
  table.lengths = {1000};
  table.layer_spread = {0.0, 0.0, 0.0};
  table.thresholds = {0.001, 0.01, 0.1};
  table.shares = {{0.05, 0.5, 0.6}};  // one of three below 10 %
  CHECK_FALSE(fit_exponential(table, {.length = 1000}));
  table.shares = {{0.5, 0.5, 0.5}};
  CHECK_FALSE(fit_exponential(table, {.length = 1000}));
  table.shares = {{0.1, 0.5, 0.9}};
  CHECK(fit_exponential(table, {.length = 1000}));
  PhaseCalibration phase;
  phase.table = table;
  CHECK(
      remarks(phase, 0.5) ==
      std::vector<std::string>{"fewer than 3 trial thresholds skip 10.0 % to 90.0 % of the blocks, too few points for "
                               "the exponential that other runtimes read"});
}

TEST_CASE("a calibration without a flaw has no remarks") {
  const PhaseCalibration phase = calibrated({{4096, counts_of(4096, 7.9, 8.6)}}, 4096);
  CHECK(remarks(phase, 0.5).empty());
}

TEST_CASE("lengths at which the target cannot be reached are named, with what can") {
  // at 512 tokens λ = 0.9999 skips ln(512 / 7.9) / 8.6 = 48.5 %
  const PhaseCalibration phase = calibrated({{512, counts_of(512, 7.9, 8.6)}, {4096, counts_of(4096, 7.9, 8.6)}}, 4096);
  CHECK(remarks(phase, 0.6) ==
        std::vector<std::string>{"at 512 tokens at most 48.5 % of the blocks can be skipped, not 60.0 %",
                                 "at 512 tokens the exponential needs a threshold of 2.69, expected less than 1"});
}

TEST_CASE("what the exponential misses at other lengths is said") {
  // the same λ at both lengths: an exponential over the length is 8 times off at 512
  BlockCounts same = counts_of(4096, 7.9, 8.6);
  const PhaseCalibration phase = calibrated({{512, same}, {4096, same}}, 4096);
  const auto said = remarks(phase, 0.4);
  REQUIRE(said.size() == 1);
  CHECK(said[0].starts_with("at 512 tokens the exponential skips 64."));
  CHECK(said[0].ends_with(" % instead of 40.0 %"));
}

TEST_CASE("a bad fit and a target outside of it are said") {
  ThresholdTable table;
  table.lengths = {1000};
  table.thresholds = {0.001, 0.002, 0.5};
  table.shares = {{0.2, 0.5, 0.51}};
  table.layer_spread = {0.0, 0.0, 0.0};
  PhaseCalibration phase;
  phase.table = table;
  phase.exponential = fit_exponential(table, {.length = 1000});
  const auto said = remarks(phase, 0.1);
  REQUIRE(said.size() >= 3);
  CHECK(said[0] == "at 1000 tokens the smallest trial, 0.001, skips more than the target already: 20.0 %");
  CHECK(said[1].starts_with("the exponential a exp(b target) describes the measurements badly: R² is 0."));
  CHECK(said[1].ends_with(", expected at least 0.9"));
  CHECK(said[2] == "the target of 10.0 % is outside of what the exponential was fitted to, 20.0 % to 51.0 %");
}
