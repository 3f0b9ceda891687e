#include <modelopt/checkpoint/export/export_checkpoint.h>

#include <ATen/ops/equal.h>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>

#include <set>
#include <utility>
#include <vector>

#include <modelopt/checkpoint/export/saved_sparsity.h>

#include "modelopt/checkpoint/export/exported_model.h"
#include "modelopt/checkpoint/test_files.h"

namespace modelopt::checkpoint {
namespace {

namespace fs = std::filesystem;
using Catch::Matchers::Message;
using test::kAllModules;
using test::kTinyModels;
using test::sparse_model;
using test::TemporaryDirectory;

std::set<std::string> names_in(const fs::path& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.insert(entry.path().filename().string());
  return names;
}

void copy_tokenizer(const fs::path& to) {
  fs::copy_file(fs::path(MODELOPT_TEST_DATA) / "tokenizers/llama3/tokenizer.json", to / "tokenizer.json");
}

TEST_CASE("an exported model has the same weights and, loaded again, bit-identical logits") {
  const TemporaryDirectory directory;
  const auto sparse = sparse_model("llama", kAllModules);
  export_checkpoint(kTinyModels / "llama", directory / "out", sparse.config, sparse.report);
  CHECK(names_in(directory / "out") ==
        std::set<std::string>{"config.json", "generation_config.json", "model.safetensors"});
  for (const char* name : {"generation_config.json", "model.safetensors"})
    CHECK(read_file(directory / "out" / name) == read_file(kTinyModels / "llama" / name));

  const auto again = load_model(directory / "out").model;
  const at::Tensor dense = test::logits(*again);
  const auto restored = restore_saved_sparsity(*again, directory / "out");
  REQUIRE(restored.has_value());
  CHECK(restored->config == sparse.config);
  CHECK(at::equal(test::logits(*again), test::logits(*sparse.model)));
  CHECK_FALSE(at::equal(dense, test::logits(*again)));
}

TEST_CASE("shards, their index and the tokenizer are copied") {
  const TemporaryDirectory directory;
  fs::copy(kTinyModels / "llama_sharded", directory / "source");
  fs::permissions(directory / "source", fs::perms::owner_all);
  copy_tokenizer(directory / "source");
  std::ofstream(directory / "source/notes.txt") << "not part of a model";
  const auto sparse = sparse_model("llama_sharded", kAllModules);
  export_checkpoint(directory / "source", directory / "out", sparse.config, sparse.report);
  std::set<std::string> expected = {"config.json", "generation_config.json", "model.safetensors.index.json",
                                    "tokenizer.json"};
  for (int i = 1; i <= 5; ++i) expected.insert("model-0000" + std::to_string(i) + "-of-00005.safetensors");
  CHECK(names_in(directory / "out") == expected);
  expected.erase("config.json");
  for (const auto& name : expected)
    CHECK(read_file(directory / "out" / name) == read_file(directory / "source" / name));
}

TEST_CASE("config.json keeps its keys in their order and gains one") {
  const TemporaryDirectory directory;
  const auto sparse = sparse_model("qwen2", kAllModules);
  export_checkpoint(kTinyModels / "qwen2", directory / "out", sparse.config, sparse.report);
  const auto source = test::read_json(kTinyModels / "qwen2/config.json");
  auto written = test::read_json(directory / "out/config.json");
  std::vector<std::string> keys, expected;
  for (const auto& [key, value] : source.items()) expected.push_back(key);
  expected.push_back("sparse_attention_config");
  for (const auto& [key, value] : written.items()) keys.push_back(key);
  CHECK(keys == expected);
  written.erase("sparse_attention_config");
  CHECK(written == source);
}

TEST_CASE("an exported model can be exported with another configuration") {
  const TemporaryDirectory directory;
  const auto first = sparse_model("llama", kAllModules);
  export_checkpoint(kTinyModels / "llama", directory / "first", first.config, first.report);
  const auto second = sparse_model("llama", R"({"*attn*": {"method": "sparse_softmax", "sparsity_n": 3}})");
  export_checkpoint(directory / "first", directory / "second", second.config, second.report);
  const auto written = test::read_json(directory / "second/config.json");
  CHECK(written["sparse_attention_config"]["config_groups"]["group_0"]["sparsity_n"] == 3);
  CHECK(written["sparse_attention_config"]["config_groups"].size() == 1);
}

TEST_CASE("an existing target is refused, and replaced whole with overwrite") {
  const TemporaryDirectory directory;
  const auto sparse = sparse_model("llama", kAllModules);
  const fs::path target = directory / "out";
  const auto write = [&](bool overwrite) {
    export_checkpoint(kTinyModels / "llama", target, sparse.config, sparse.report,
                      {.overwrite = overwrite, .progress = {}});
  };
  write(false);
  std::ofstream(target / "old.txt") << "left from before";
  CHECK_THROWS_MATCHES(write(false), InvalidArgument,
                       Message(target.string() + ": exists already, expected a new directory or --overwrite"));
  CHECK(fs::exists(target / "old.txt"));
  write(true);
  CHECK(names_in(target) == std::set<std::string>{"config.json", "generation_config.json", "model.safetensors"});
  CHECK(names_in(directory.path()) == std::set<std::string>{"out"});
}

TEST_CASE("overwrite replaces nothing but a model directory") {
  const TemporaryDirectory directory;
  fs::create_directory(directory / "photos");
  std::ofstream(directory / "photos/holiday.jpg") << "x";
  CHECK_THROWS_MATCHES(
      check_export_target(kTinyModels / "llama", directory / "photos", true), InvalidArgument,
      Message((directory / "photos").string() + ": holds no config.json, expected a model directory to overwrite"));
  fs::create_directory(directory / "empty");
  CHECK_NOTHROW(check_export_target(kTinyModels / "llama", directory / "empty", true));
}

TEST_CASE("the source is never changed, however the target names it") {
  const TemporaryDirectory directory;
  fs::copy(kTinyModels / "llama", directory / "source");
  const fs::path source = directory / "source";
  fs::create_directory_symlink(source, directory / "link");
  const std::string reason = ", which an export never changes";
  for (const fs::path& target : {source, directory / "source/", directory / "link", directory / "source/../source",
                                 directory / "source/out", directory.path()}) {
    CAPTURE(target);
    CHECK_THROWS_MATCHES(
        check_export_target(source, target, true), InvalidArgument,
        Message(target.string() + ": is, holds or lies in the source directory " + source.string() + reason));
  }
  CHECK_NOTHROW(check_export_target(source, directory / "source2", false));
}

TEST_CASE("a failure leaves nothing behind, and an old target as it was") {
  const TemporaryDirectory directory;
  const auto sparse = sparse_model("llama", kAllModules);
  const fs::path target = directory / "out";
  ExportOptions stopped;
  stopped.overwrite = true;
  stopped.progress = [](std::uint64_t, std::uint64_t) { throw Error("stopped"); };
  CHECK_THROWS_MATCHES(export_checkpoint(kTinyModels / "llama", target, sparse.config, sparse.report, stopped), Error,
                       Message("stopped"));
  CHECK(names_in(directory.path()).empty());

  export_checkpoint(kTinyModels / "llama", target, sparse.config, sparse.report);
  const std::string before = read_file(target / "config.json");
  CHECK_THROWS_AS(export_checkpoint(kTinyModels / "llama", target, sparse.config, sparse.report, stopped), Error);
  CHECK(names_in(directory.path()) == std::set<std::string>{"out"});
  CHECK(read_file(target / "config.json") == before);
}

TEST_CASE("progress counts the copied bytes up to the total") {
  const TemporaryDirectory directory;
  const auto sparse = sparse_model("llama", kAllModules);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> calls;
  ExportOptions options;
  options.progress = [&](std::uint64_t done, std::uint64_t total) { calls.emplace_back(done, total); };
  export_checkpoint(kTinyModels / "llama", directory / "out", sparse.config, sparse.report, options);
  const std::uint64_t total = fs::file_size(kTinyModels / "llama/model.safetensors") +
                              fs::file_size(kTinyModels / "llama/generation_config.json");
  REQUIRE_FALSE(calls.empty());
  CHECK(calls.back() == std::pair{total, total});
}

}  // namespace
}  // namespace modelopt::checkpoint
