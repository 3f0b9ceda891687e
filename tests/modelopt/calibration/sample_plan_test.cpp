#include <modelopt/calibration/sample_plan.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>

#include <map>
#include <set>
#include <vector>

#include <modelopt/error.h>

using namespace modelopt;
using namespace modelopt::calibration;
using Catch::Matchers::Message;
using config::CalibrationConfig;

namespace {

const RulerGenerator& generator() {
  static const RulerGenerator instance(
      checkpoint::Tokenizer::from_file(MODELOPT_TEST_DATA "/tokenizers/smollm2/tokenizer.json"),
      Haystack::from_path(MODELOPT_TEST_DATA "/text/opticks.txt"));
  return instance;
}

std::vector<PlannedSample> plan(std::int64_t samples, std::int64_t max_seqlen, std::int64_t bins,
                                std::int64_t room = 1 << 20) {
  CalibrationConfig calibration;
  calibration.samples = samples;
  calibration.max_seqlen = max_seqlen;
  calibration.num_length_bins = bins;
  return plan_samples(calibration, generator(), 5, room);
}

}  // namespace

TEST_CASE("lengths are halves of each other up to the largest") {
  CHECK(length_bins(8192, 4) == std::vector<std::int64_t>{1024, 2048, 4096, 8192});
  CHECK(length_bins(1000, 1) == std::vector<std::int64_t>{1000});
  CHECK_THROWS_MATCHES(length_bins(4, 4), ConfigError,
                       Message("calibration: num_length_bins is 4, expected at most 3: each length is half of the "
                               "next, and max_seqlen is 4"));
}

TEST_CASE("every length gets as many samples, the longest the rest") {
  std::map<std::int64_t, int> counts;
  for (const PlannedSample& sample : plan(18, 8192, 4)) {
    ++counts[sample.length];
    CHECK(sample.request.target_tokens == sample.length);
    CHECK(sample.request.seed == 5);
  }
  CHECK(counts == std::map<std::int64_t, int>{{1024, 4}, {2048, 4}, {4096, 4}, {8192, 6}});
}

TEST_CASE("few samples take the same tasks at every length, many take all in turn") {
  std::map<std::int64_t, std::set<RulerTask>> tasks;
  for (const PlannedSample& sample : plan(16, 8192, 4)) tasks[sample.length].insert(sample.request.task);
  for (const auto& [length, set] : tasks)
    CHECK(set == std::set{RulerTask::kNiahSingle, RulerTask::kNiahMultikeyLines, RulerTask::kNiahMultiquery,
                          RulerTask::kCommonWords});
  // a list of common words has no room in 256 tokens: it is left out at every length
  tasks.clear();
  for (const PlannedSample& sample : plan(16, 2048, 4)) tasks[sample.length].insert(sample.request.task);
  REQUIRE(tasks.size() == 4);
  for (const auto& [length, set] : tasks) {
    CHECK(set == tasks.at(256));
    CHECK(set.size() == 4);
    CHECK_FALSE(set.contains(RulerTask::kCommonWords));
  }
  std::map<RulerTask, std::set<std::uint64_t>> indices;
  for (const PlannedSample& sample : plan(16, 4096, 1)) indices[sample.request.task].insert(sample.request.index);
  CHECK(indices.size() == 8);
  for (const auto& [task, set] : indices) CHECK(set == std::set<std::uint64_t>{0, 1});
}

TEST_CASE("room for decode steps shortens the longest length, and takes the place of all beyond it") {
  const auto samples = plan(4, 8192, 4, 8182);
  CHECK(samples.back().length == 8182);
  CHECK(samples.back().request.target_tokens == 8182);
  std::map<std::int64_t, int> counts;
  for (const PlannedSample& sample : plan(9, 8192, 4, 3000)) {
    ++counts[sample.length];
    CHECK(sample.request.target_tokens == sample.length);
  }
  CHECK(counts == std::map<std::int64_t, int>{{1024, 3}, {2048, 3}, {3000, 3}});
}

TEST_CASE("samples that do not reach and lengths without room are refused") {
  CHECK_THROWS_MATCHES(plan(3, 8192, 4), ConfigError,
                       Message("calibration: samples is 3, expected at least one for each of the 4 lengths"));
  CHECK_THROWS_MATCHES(plan(8, 1024, 8), ConfigError,
                       Message("calibration: prompts of 8 tokens have no room for any task, expected longer ones: a "
                               "larger max_seqlen or a smaller num_length_bins"));
}
