#include <modelopt/eval/attention_statistics.h>

#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <modelopt/error.h>

using namespace modelopt;
using namespace modelopt::eval;
using attention::Phase;

namespace {

// Two sequences, four heads.
models::ModuleStats stats(const std::string& module, std::int64_t first) {
  std::vector<std::int64_t> values;
  for (std::int64_t i = 0; i < 2 * 4 * 4; ++i) values.push_back(first + i);
  return {module, at::tensor(values, at::kLong).view({2, 4, 4}), {}};
}

}  // namespace

TEST_CASE("statistics are summed over the batch and over the heads of a group") {
  AttentionStatistics statistics;
  CHECK(statistics.empty());
  statistics.add(Phase::kPrefill, {stats("a", 0), stats("b", 100)}, 2);
  REQUIRE(statistics.groups().size() == 4);
  // heads 0 and 1 of both sequences: rows 0, 1, 4 and 5 of four values
  CHECK(statistics.groups()[0] == HeadGroupStatistics{"a", Phase::kPrefill, 0, {40, 44, 48, 52}, {}});
  CHECK(statistics.groups()[1] == HeadGroupStatistics{"a", Phase::kPrefill, 1, {72, 76, 80, 84}, {}});
  CHECK(statistics.groups()[2].module == "b");
  CHECK(statistics.groups()[2].counts.blocks_visible == 440);

  statistics.add(Phase::kPrefill, {stats("a", 0)}, 2);
  statistics.add(Phase::kDecode, {stats("a", 0)}, 2);
  REQUIRE(statistics.groups().size() == 6);
  CHECK(statistics.groups()[0].counts == AttentionCounts{80, 88, 96, 104});
  CHECK(statistics.groups()[4] == HeadGroupStatistics{"a", Phase::kDecode, 0, {40, 44, 48, 52}, {}});
  CHECK(statistics.total().blocks_visible == 80 + 144 + 440 + 472 + 40 + 72);
}

TEST_CASE("fractions are absent where nothing is visible") {
  CHECK(AttentionCounts{4, 1, 10, 5}.skipped_fraction() == 0.25);
  CHECK(AttentionCounts{4, 1, 10, 5}.kept_fraction() == 0.5);
  CHECK_FALSE(AttentionCounts{}.skipped_fraction());
  CHECK_FALSE(AttentionCounts{}.kept_fraction());
}

TEST_CASE("statistics as JSON") {
  AttentionStatistics statistics;
  statistics.add(Phase::kDecode, {{"m", at::tensor({4, 1, 10, 5}, at::kLong).view({1, 1, 4}), {}}}, 1);
  CHECK(to_json(statistics).dump() ==
        R"([{"module":"m","phase":"decode","key_head":0,"blocks_visible":4,"blocks_skipped":1,"pairs_visible":10,)"
        R"("pairs_attended":5,"skipped_fraction":0.25,"kept_fraction":0.5,"trials":[]}])");
}

TEST_CASE("trials are summed by threshold, and their shares are of the visible blocks") {
  // two sequences, four heads, two trials
  models::ModuleStats entry = stats("m", 0);
  entry.trials = {{0.25, 0.5}, at::arange(16, at::kLong).view({2, 4, 2})};
  AttentionStatistics statistics, more;
  statistics.add(Phase::kPrefill, {entry}, 2);
  // of heads 0 and 1: 0, 2, 8, 10 and 1, 3, 9, 11
  CHECK((statistics.groups()[0].trials == std::vector<TrialSkips>{{0.25, 20}, {0.5, 24}}));
  CHECK((statistics.groups()[1].trials == std::vector<TrialSkips>{{0.25, 36}, {0.5, 40}}));
  more.add(Phase::kPrefill, {entry}, 2);
  more.add(Phase::kPrefill, {entry}, 2);
  statistics += more;
  CHECK((statistics.groups()[0].trials == std::vector<TrialSkips>{{0.25, 60}, {0.5, 72}}));
  CHECK(statistics.groups()[0].counts.blocks_visible == 120);
  CHECK(to_json(statistics)[0]["trials"].dump() == R"([{"threshold":0.25,"blocks_skipped":60,"skipped_fraction":0.5},)"
                                                   R"({"threshold":0.5,"blocks_skipped":72,"skipped_fraction":0.6}])");
}

TEST_CASE("heads that are no multiple of the key heads are refused") {
  AttentionStatistics statistics;
  CHECK_THROWS_AS(statistics.add(Phase::kPrefill, {stats("a", 0)}, 3), InvalidArgument);
}

TEST_CASE("thresholds are counted by phase, and what other runs have shown is added") {
  AttentionStatistics first, second;
  first.add(Phase::kPrefill, attention::ThresholdCounts{.calibrated = 3, .out_of_range = 2, .clamped = 1});
  second.add(Phase::kPrefill, attention::ThresholdCounts{.calibrated = 1});
  second.add(Phase::kDecode, attention::ThresholdCounts{.calibrated = 4, .out_of_range = 4});
  second.add(Phase::kDecode, {stats("a", 0)}, 2);
  second.add(Phase::kPrefill, {stats("a", 0)}, 2);
  first.add(Phase::kPrefill, {stats("a", 0)}, 2);
  first += second;
  CHECK(first.groups()[0].counts == AttentionCounts{80, 88, 96, 104});
  CHECK(first.total(Phase::kPrefill).blocks_visible == 2 * (40 + 72));
  CHECK(first.total(Phase::kDecode).blocks_visible == 40 + 72);
  CHECK(thresholds_to_json(first).dump() == R"({"prefill":{"calibrated":4,"out_of_range":2,"clamped":1},)"
                                            R"("decode":{"calibrated":4,"out_of_range":4,"clamped":0}})");
}
