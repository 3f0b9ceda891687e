#include <modelopt/calibration/count_cache.h>

#include <catch2/catch_test_macros.hpp>

#include <fstream>

#include <modelopt/calibration/model_hash.h>
#include <modelopt/error.h>

#include "modelopt/checkpoint/test_files.h"

using namespace modelopt;
using namespace modelopt::calibration;
using modelopt::test::TemporaryDirectory;
using nlohmann::ordered_json;

namespace {

PromptCounts some_counts() {
  PromptCounts counts;
  counts.prefill = BlockCounts(2, 3);
  counts.prefill.visible = {7, 9};
  counts.prefill.skipped = {{0, 1, 2}, {3, 4, 5}};
  counts.decode = BlockCounts(2, 3);
  return counts;
}

std::filesystem::path only_file(const std::filesystem::path& directory) {
  const std::filesystem::directory_iterator files(directory);
  REQUIRE(std::distance(begin(files), end(files)) == 1);
  return std::filesystem::directory_iterator(directory)->path();
}

}  // namespace

TEST_CASE("counts are found again under their key alone") {
  const TemporaryDirectory directory;
  const CountCache cache(directory / "made/when/needed");
  const ordered_json key = {{"model", "abc"}, {"length", 1024}};
  CHECK_FALSE(cache.find(key, 2, 3));
  cache.store(key, some_counts());
  CHECK(CountCache(directory / "made/when/needed").find(key, 2, 3) == some_counts());
  CHECK_FALSE(cache.find({{"model", "abd"}, {"length", 1024}}, 2, 3));
  CHECK_FALSE(cache.find({{"length", 1024}, {"model", "abc"}}, 2, 3));
}

TEST_CASE("without a directory nothing is kept") {
  const CountCache cache{std::filesystem::path()};
  cache.store({{"a", 1}}, some_counts());
  CHECK_FALSE(cache.find({{"a", 1}}, 2, 3));
}

TEST_CASE("files that the cache did not write are refused") {
  const TemporaryDirectory directory;
  const CountCache cache(directory.path());
  const ordered_json key = {{"a", 1}};
  cache.store(key, some_counts());
  const auto path = only_file(directory.path());
  const auto message = [&] {
    return test::data_error(directory.path(), [&] { static_cast<void>(cache.find(key, 2, 3)); });
  };
  std::ofstream(path) << "{";
  CHECK(message().starts_with(path.filename().string() + ": line 1"));
  std::ofstream(path) << R"({"key": {"a": 1}, "prefill": {"visible": "x", "skipped": []}, "decode": {}})";
  CHECK(message() == path.filename().string() + ": is no file of counts, expected one that a calibration has written");
  std::ofstream(path) << R"({"key": {"a": 2}})";
  CHECK(message() == path.filename().string() + ": holds the counts of another key, expected {\"a\":1}");
}

TEST_CASE("counts that cannot be are refused") {
  const TemporaryDirectory directory;
  const CountCache cache(directory.path());
  const ordered_json key = {{"a", 1}};
  const auto refuses = [&](auto change) {
    PromptCounts counts = some_counts();
    change(counts);
    cache.store(key, counts);
    const std::string message = test::data_error(directory.path(), [&] { static_cast<void>(cache.find(key, 2, 3)); });
    return message.ends_with(": holds counts that cannot be, expected those of 2 modules and 3 thresholds");
  };
  CHECK_FALSE(refuses([](PromptCounts&) {}));
  CHECK(refuses([](PromptCounts& counts) { counts.prefill = BlockCounts(1, 3); }));
  CHECK(refuses([](PromptCounts& counts) { counts.decode = BlockCounts(3, 3); }));
  CHECK(refuses([](PromptCounts& counts) { counts.prefill.visible.pop_back(); }));
  CHECK(refuses([](PromptCounts& counts) { counts.prefill.skipped[1] = {3}; }));
  CHECK(refuses([](PromptCounts& counts) { counts.prefill.skipped[0] = {0, 1, 8}; }));  // of 7
  CHECK(refuses([](PromptCounts& counts) { counts.prefill.skipped[0] = {2, 1, 3}; }));
  CHECK(refuses([](PromptCounts& counts) { counts.prefill.skipped[0] = {-1, 1, 3}; }));
}

TEST_CASE("the hash of a model changes with its configuration, its weights and its tokenizer") {
  const TemporaryDirectory directory;
  std::filesystem::copy(MODELOPT_TEST_DATA "/models/llama", directory / "model");
  const std::string original = model_hash(directory / "model");
  CHECK(original.size() == 64);
  CHECK(model_hash(MODELOPT_TEST_DATA "/models/llama") == original);

  directory.write("model/tokenizer.json", "{}");
  const std::string with_tokenizer = model_hash(directory / "model");
  CHECK(with_tokenizer != original);

  std::fstream weights(directory / "model/model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  weights.seekp(-1, std::ios::end);
  weights.put('\x55');
  weights.close();
  CHECK(model_hash(directory / "model") != with_tokenizer);
}
