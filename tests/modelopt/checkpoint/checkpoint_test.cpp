#include <modelopt/checkpoint/checkpoint.h>

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <modelopt/checkpoint/safetensors_writer.h>

#include "modelopt/checkpoint/test_files.h"

namespace modelopt::checkpoint {
namespace {

using test::data_error;
using test::TemporaryDirectory;
using Files = std::vector<std::string>;

constexpr const char* kIndex = "model.safetensors.index.json";

// Two shards: one.safetensors with a [2] and b [3], two.safetensors with c [1], all fp32.
struct ShardedDirectory : TemporaryDirectory {
  ShardedDirectory() {
    write_safetensors(path() / "one.safetensors", {{"a", at::arange(2, at::kFloat)}, {"b", at::arange(3, at::kFloat)}});
    write_safetensors(path() / "two.safetensors", {{"c", at::full({1}, 5.0F)}});
  }
  [[nodiscard]] std::string error() const {
    return data_error(path(), [&] { Checkpoint{path()}; });
  }
};

TEST_CASE("shards are read through the index") {
  const ShardedDirectory directory;
  directory.write(kIndex, R"({"metadata": {"total_size": 24, "total_parameters": 6, "note": "x"},
      "weight_map": {"a": "one.safetensors", "c": "two.safetensors", "b": "one.safetensors"}})");
  const Checkpoint checkpoint(directory.path());
  CHECK(checkpoint.names() == std::vector<std::string>{"a", "b", "c"});
  CHECK(checkpoint.file_names() == Files{kIndex, "one.safetensors", "two.safetensors"});
  CHECK(checkpoint.total_bytes() == 24);
  CHECK(at::equal(checkpoint.tensor("b"), at::arange(3, at::kFloat)));
  CHECK(checkpoint.tensor("c").item().toFloat() == 5);
  CHECK(checkpoint.info("a").shape == std::vector<std::int64_t>{2});
  CHECK_FALSE(checkpoint.contains("d"));
  CHECK(data_error({}, [&] { static_cast<void>(checkpoint.info("d")); }) ==
        directory.path().string() + ": there is no tensor \"d\"");
}

TEST_CASE("each rule of the index is checked") {
  struct Case {
    std::string index, message;
  };
  const auto [index, message] = GENERATE(values<Case>({
      {R"({"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"},)"
       R"( "metadata": {"total_size": 25}})",
       "$.metadata.total_size: 25, but the tensors have 24 bytes"},
      {R"({"weight_map": {"a": "one.safetensors"}, "metadata": {"total_size": "25"}})",
       "$.metadata.total_size: \"25\", expected a number of bytes"},
      {R"({"metadata": {}})", "$.weight_map: missing or empty, expected a file name for each tensor"},
      {R"({"weight_map": {}})", "$.weight_map: missing or empty, expected a file name for each tensor"},
      {R"({"weight_map": []})", "$.weight_map: [], expected an object or null"},
      {R"({"weight_map": {"a": 1}})", "$.weight_map.a: 1, expected the name of a file"},
      {R"({"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}})", "$.weight_map.a: the key occurs twice"},
      {R"({"weight_map": {"a": "one.safetensors"}, "other": 1})", "$.other: 1, but this key is not understood here"},
      {R"({"weight_map": {"a": "one.safetensors", "c": "three.safetensors"}})",
       "$.weight_map: the file \"three.safetensors\" is not there"},
      {R"({"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors",)"
       R"( "d": "two.safetensors"}})",
       "$.weight_map: tensor \"d\" is missing in two.safetensors"},
      {R"({"weight_map": {"a": "one.safetensors", "c": "two.safetensors"}})",
       "$.weight_map: no entry for tensor \"b\" of one.safetensors"},
      {R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}})",
       "$.weight_map: tensor \"b\" is said to be in two.safetensors, but is in one.safetensors"},
      {R"({"weight_map": )",
       "line 1, column 16: in $.weight_map: syntax error while parsing value - unexpected end of input; expected '[', "
       "'{', or a literal"},
      {R"([])", "$: [], expected an object"},
  }));
  const ShardedDirectory directory;
  directory.write(kIndex, index);
  CHECK(directory.error() == std::string(kIndex) + ": " + message);
}

TEST_CASE("a tensor in two shards is an error") {
  const ShardedDirectory directory;
  write_safetensors(directory / "two.safetensors", {{"a", at::full({1}, 5.0F)}});
  directory.write(kIndex, R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})");
  CHECK(directory.error() ==
        std::string(kIndex) + ": tensor \"a\" is doubled, in one.safetensors and in two.safetensors");
}

TEST_CASE("a path in the index never leaves the directory") {
  const auto name = GENERATE("../one.safetensors", "/etc/passwd", "sub/one.safetensors", "..", ".", "", "a\\b");
  const ShardedDirectory directory;
  directory.write(kIndex, nlohmann::json{{"weight_map", {{"a", name}}}}.dump());
  CHECK(directory.error() == directory.path().string() + ": the file name \"" + name +
                                 "\" is not plain, expected a file in the model directory");
}

TEST_CASE("a symlink never leaves the directory") {
  const TemporaryDirectory elsewhere;
  const ShardedDirectory directory;
  std::filesystem::rename(directory / "two.safetensors", elsewhere / "blob");
  std::filesystem::create_symlink(elsewhere / "blob", directory / "two.safetensors");
  directory.write(kIndex,
                  R"({"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}})");
  CHECK(directory.error() ==
        "two.safetensors: is a symlink to " + (elsewhere / "blob").string() +
            ", outside of the model directory; expected a real file (copy the directory with cp -rL)");

  std::filesystem::remove(directory / "two.safetensors");
  std::filesystem::create_symlink("nowhere", directory / "two.safetensors");
  CHECK(directory.error() == "two.safetensors: cannot be followed: No such file or directory");

  std::filesystem::remove(directory / "two.safetensors");
  std::filesystem::create_directory(directory / "blobs");
  std::filesystem::rename(elsewhere / "blob", directory / "blobs/c");
  std::filesystem::create_symlink("blobs/c", directory / "two.safetensors");
  CHECK(Checkpoint(directory.path()).contains("c"));
}

TEST_CASE("the directory holds one checkpoint") {
  const ShardedDirectory directory;
  CHECK(directory.error() ==
        directory.path().string() +
            ": neither model.safetensors nor model.safetensors.index.json is there, expected one of them "
            "(other weight formats are not read)");
  std::filesystem::copy_file(directory / "one.safetensors", directory / "model.safetensors");
  CHECK(Checkpoint(directory.path()).file_names() == Files{"model.safetensors"});
  directory.write(kIndex, "{}");
  CHECK(directory.error() ==
        directory.path().string() +
            ": both model.safetensors and model.safetensors.index.json are there, expected one of them");
  std::filesystem::remove(directory / kIndex);
  std::filesystem::remove(directory / "model.safetensors");
  std::filesystem::create_directory(directory / "model.safetensors");
  CHECK(directory.error() == "model.safetensors: not a regular file");
  CHECK(data_error(directory.path(), [&] { Checkpoint{directory / "none"}; }) ==
        "none: cannot open the model directory: No such file or directory");
  CHECK(data_error(directory.path(), [&] { Checkpoint{directory / "one.safetensors"}; }) ==
        "one.safetensors: not a directory, expected a model directory");
}

TEST_CASE("the sharded tiny model opens") {
  const Checkpoint checkpoint(MODELOPT_TEST_DATA "/models/llama_sharded");
  CHECK(checkpoint.file_names().size() == 6);
  CHECK(checkpoint.total_bytes() == 571136);
}

}  // namespace
}  // namespace modelopt::checkpoint
