#include <modelopt/checkpoint/safetensors_file.h>

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <cstring>
#include <random>
#include <vector>

#include <modelopt/util/file.h>

#include "modelopt/checkpoint/test_files.h"

namespace modelopt::checkpoint {
namespace {

using test::data_error;
using test::safetensors_bytes;
using test::TemporaryDirectory;

std::string bytes_of(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

struct BadFile {
  std::string header;
  std::size_t data_size;
  std::string message;
};

TEST_CASE("a safetensors file is read: values, shapes, dtypes, metadata") {
  const TemporaryDirectory directory;
  const std::string header = R"({"b": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},)"
                             R"( "__metadata__": {"format": "pt", "note": "x"},)"
                             R"( "a": {"dtype": "I64", "shape": [], "data_offsets": [16, 24]},)"
                             R"( "empty": {"dtype": "F16", "shape": [3, 0], "data_offsets": [24, 24]}}   )";
  const std::int64_t scalar = -7;
  const std::string data =
      bytes_of({1, 2, 3, 4.5}) + std::string(reinterpret_cast<const char*>(&scalar), sizeof scalar);
  const SafetensorsFile file(directory.write("t.safetensors", safetensors_bytes(header, data)));

  CHECK(file.tensors().size() == 3);
  CHECK(file.metadata() == std::map<std::string, std::string>{{"format", "pt"}, {"note", "x"}});
  CHECK(at::equal(file.tensor("b"), at::tensor({1.0F, 2.0F, 3.0F, 4.5F}).view({2, 2})));
  CHECK(file.tensor("a").dim() == 0);
  CHECK(file.tensor("a").item().toLong() == -7);
  CHECK(file.tensor("empty").sizes() == at::IntArrayRef({3, 0}));
  CHECK(file.tensor("empty").scalar_type() == at::kHalf);
  CHECK(file.tensors().at("b").nbytes() == 16);
}

TEST_CASE("tensors share the mapping, outlive the file object, and cannot change the file") {
  const TemporaryDirectory directory;
  const std::string header = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} )";
  static_assert(sizeof(float) == 4);
  const std::string content =
      safetensors_bytes(header + std::string((8 - header.size() % 8) % 8, ' '), bytes_of({1, 2}));
  const auto path = directory.write("t.safetensors", content);
  at::Tensor first, second;
  {
    const SafetensorsFile file(path);
    first = file.tensor("a");
    second = file.tensor("a");
  }
  CHECK(first.const_data_ptr() == second.const_data_ptr());
  first.fill_(9);
  CHECK(second[1].item().toFloat() == 9);
  CHECK(read_file(path) == content);
}

TEST_CASE("data that is not aligned to its dtype is read") {
  const TemporaryDirectory directory;
  const std::string header =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  const SafetensorsFile file(directory.write("t.safetensors", safetensors_bytes(header, "x" + bytes_of({3, 4}))));
  CHECK(at::equal(file.tensor("b"), at::tensor({3.0F, 4.0F})));
  CHECK(file.tensor("a")[0].item().toLong() == 'x');
}

TEST_CASE("a file without tensors is valid") {
  const TemporaryDirectory directory;
  CHECK(SafetensorsFile(directory.write("t.safetensors", safetensors_bytes("{}", ""))).tensors().empty());
}

TEST_CASE("every dtype that can be loaded has torch's type") {
  const auto [name, type, size] = GENERATE(table<const char*, at::ScalarType, int>({{"BOOL", at::kBool, 1},
                                                                                    {"U8", at::kByte, 1},
                                                                                    {"I8", at::kChar, 1},
                                                                                    {"U16", at::kUInt16, 2},
                                                                                    {"I16", at::kShort, 2},
                                                                                    {"F16", at::kHalf, 2},
                                                                                    {"BF16", at::kBFloat16, 2},
                                                                                    {"U32", at::kUInt32, 4},
                                                                                    {"I32", at::kInt, 4},
                                                                                    {"F32", at::kFloat, 4},
                                                                                    {"U64", at::kUInt64, 8},
                                                                                    {"I64", at::kLong, 8},
                                                                                    {"F64", at::kDouble, 8}}));
  const TemporaryDirectory directory;
  const std::string header = str(R"({"a":{"dtype":")", name, R"(","shape":[3],"data_offsets":[0,)", 3 * size, "]}}");
  const SafetensorsFile file(directory.write("t.safetensors", safetensors_bytes(header, std::string(3 * size, '\0'))));
  CHECK(file.tensor("a").scalar_type() == type);
}

TEST_CASE("a dtype of the format that torch code here does not take opens, and is an error when loaded") {
  const TemporaryDirectory directory;
  const std::string header =
      R"({"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]},)"
      R"("b":{"dtype":"F4","shape":[4],"data_offsets":[2,4]}})";
  const SafetensorsFile file(directory.write("t.safetensors", safetensors_bytes(header, "abcd")));
  CHECK(data_error(directory.path(), [&] { static_cast<void>(file.tensor("a")); }) ==
        "t.safetensors: tensor \"a\" has dtype F8_E4M3, which cannot be loaded");
  CHECK(data_error(directory.path(), [&] { static_cast<void>(file.tensor("c")); }) ==
        "t.safetensors: there is no tensor \"c\"");
}

TEST_CASE("each rule of the header is checked") {
  const auto [header, data_size, message] = GENERATE(values<BadFile>({
      {R"([])", 0, "t.safetensors: header: does not begin with {"},
      {R"( {})", 0, "t.safetensors: header: does not begin with {"},
      {"", 0, "t.safetensors: header: does not begin with {"},
      {"{\"\xff\": 1}", 0,
       "t.safetensors: header: line 1, column 3: in $: syntax error while parsing object key - invalid string: "
       "ill-formed UTF-8 "
       "byte; expected string literal"},
      {R"({"a":)", 0,
       "t.safetensors: header: line 1, column 6: in $.a: syntax error while parsing value - unexpected end of input; "
       "expected '[', "
       "'{', or a literal"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
       1, "t.safetensors: header: $.a: the key occurs twice"},
      {R"({"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})", 1,
       "t.safetensors: header: $.a.dtype: the key occurs twice"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"c":0}})", 1,
       "t.safetensors: header: $.a.c: 0, but this key is not understood here"},
      {R"({"a":7})", 0, "t.safetensors: header: $.a: 7, expected an object"},
      {R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1, "t.safetensors: header: $.a.dtype: missing"},
      {R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1, "t.safetensors: header: $.a.shape: missing"},
      {R"({"a":{"dtype":"U8","shape":[1]}})", 1, "t.safetensors: header: $.a.data_offsets: missing"},
      {R"({"a":{"dtype":8,"shape":[1],"data_offsets":[0,1]}})", 1,
       "t.safetensors: header: $.a.dtype: 8, expected a string"},
      {R"({"a":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}})", 4,
       "t.safetensors: header: $.a.dtype: \"f32\", expected a dtype of the safetensors format"},
      {R"({"a":{"dtype":"U8","shape":1,"data_offsets":[0,1]}})", 1,
       "t.safetensors: header: $.a.shape: 1, expected an array of integers from 0 to 2^63 - 1"},
      {R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", 1,
       "t.safetensors: header: $.a.shape: [-1], expected an array of integers from 0 to 2^63 - 1"},
      {R"({"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", 1,
       "t.safetensors: header: $.a.shape: [1.0], expected an array of integers from 0 to 2^63 - 1"},
      {R"({"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}})", 1,
       "t.safetensors: header: $.a.shape: [true], expected an array of integers from 0 to 2^63 - 1"},
      {R"({"a":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,1]}})", 1,
       "t.safetensors: header: $.a.shape: [9223372036854775808], expected an array of integers from 0 to 2^63 - 1"},
      {R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
       "t.safetensors: header: $.a.shape: [4294967296,4294967296], expected a tensor of fewer than 2^64 bits"},
      {R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})", 0,
       "t.safetensors: header: $.a.shape: [4611686018427387904], expected a tensor of fewer than 2^64 bits"},
      {R"({"a":{"dtype":"U8","shape":[0,4611686018427387904,4],"data_offsets":[0,0]}})", 0,
       "t.safetensors: header: $.a.shape: [0,4611686018427387904,4], expected a tensor of fewer than 2^64 bits"},
      {R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", 2,
       "t.safetensors: header: $.a.shape: [3], expected a whole number of bytes for dtype F4"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", 1,
       "t.safetensors: header: $.a.data_offsets: [0], expected two integers >= 0"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[-1,0]}})", 1,
       "t.safetensors: header: $.a.data_offsets: [-1,0], expected two integers >= 0"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":["0","1"]}})", 1,
       "t.safetensors: header: $.a.data_offsets: [\"0\",\"1\"], expected two integers >= 0"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}})", 1,
       "t.safetensors: header: $.a.data_offsets: [1,0], expected begin <= end <= 1, the size of the data"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 1,
       "t.safetensors: header: $.a.data_offsets: [0,2], expected begin <= end <= 1, the size of the data"},
      {R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,20]}})", 20,
       "t.safetensors: header: $.a.data_offsets: [0,20], expected 24 bytes for dtype F32 and shape [2,3]"},
      {R"({"__metadata__":{"n":1}})", 0,
       "t.safetensors: header: $.__metadata__: {\"n\":1}, expected an object of strings"},
      {R"({"__metadata__":"x"})", 0, "t.safetensors: header: $.__metadata__: \"x\", expected an object of strings"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
       3, "t.safetensors: \"b\" begins at byte 1 of the data, expected 2: tensors overlap"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
       2, "t.safetensors: \"b\" begins at byte 0 of the data, expected 2: tensors overlap"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
       3, "t.safetensors: bytes 1 to 2 of the data belong to no tensor, expected no hole before \"b\""},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2,
       "t.safetensors: bytes 0 to 1 of the data belong to no tensor, expected no hole before \"a\""},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 2,
       "t.safetensors: the data has 2 bytes, but the tensors end at byte 1"},
      {R"({})", 1, "t.safetensors: the data has 1 bytes, but the tensors end at byte 0"},
  }));
  const TemporaryDirectory directory;
  const auto path = directory.write("t.safetensors", safetensors_bytes(header, std::string(data_size, 'x')));
  CHECK(data_error(directory.path(), [&] { SafetensorsFile{path}; }) == message);
}

TEST_CASE("the length of the header is checked before it is read") {
  const TemporaryDirectory directory;
  const auto error_of = [&](std::uint64_t length, std::string_view rest) {
    const auto path =
        directory.write("t.safetensors", std::string(reinterpret_cast<const char*>(&length), 8) + std::string(rest));
    return data_error(directory.path(), [&] { SafetensorsFile{path}; });
  };
  CHECK(error_of(3, "{}") == "t.safetensors: header: length 3, but only 2 bytes follow");
  CHECK(error_of(100'000'000, "{}") == "t.safetensors: header: length 100000000, but only 2 bytes follow");
  CHECK(error_of(100'000'001, "{}") == "t.safetensors: header: length 100000001, expected at most 100000000");
  CHECK(error_of(~std::uint64_t{0}, "{}") ==
        "t.safetensors: header: length 18446744073709551615, expected at most 100000000");
  CHECK(data_error(directory.path(), [&] { SafetensorsFile{directory.write("s.safetensors", "1234567")}; }) ==
        "s.safetensors: 7 bytes, expected at least 8");
  CHECK(data_error(directory.path(), [&] { SafetensorsFile{directory / "none.safetensors"}; }) ==
        "none.safetensors: cannot open: No such file or directory");
  std::filesystem::create_directory(directory / "d");
  CHECK(data_error(directory.path(), [&] { SafetensorsFile{directory / "d"}; }) == "d: not a regular file");
}

// A damaged file is refused or read, and nothing else happens; with sanitizers this test finds out-of-range reads.
TEST_CASE("random damage never does more than throw DataError") {
  const std::string intact = read_file(MODELOPT_TEST_DATA "/models/llama/model.safetensors").substr(0, 1 << 20);
  const TemporaryDirectory directory;
  std::mt19937_64 random(20240607);
  int refused = 0;
  for (int round = 0; round < 400; ++round) {
    std::string damaged = intact;
    std::uint64_t header_size = 0;
    std::memcpy(&header_size, intact.data(), sizeof header_size);
    const std::size_t changes = 1 + random() % 4;
    for (std::size_t i = 0; i < changes; ++i) damaged[random() % (8 + header_size)] = static_cast<char>(random());
    if (round % 4 == 0) damaged.resize(random() % damaged.size());
    const auto path = directory.write("t.safetensors", damaged);
    try {
      const SafetensorsFile file(path);
      for (const auto& [name, info] : file.tensors()) static_cast<void>(file.tensor(name).clone());
    } catch (const DataError&) {
      ++refused;
    }
  }
  CHECK(refused > 300);  // a flip inside a name or the metadata may leave a valid file
}

}  // namespace
}  // namespace modelopt::checkpoint
