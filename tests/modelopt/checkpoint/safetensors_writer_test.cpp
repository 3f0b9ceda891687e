#include <modelopt/checkpoint/safetensors_writer.h>

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <catch2/catch_test_macros.hpp>

#include <modelopt/checkpoint/safetensors_file.h>

#include "modelopt/checkpoint/test_files.h"

namespace modelopt::checkpoint {
namespace {

using test::data_error;
using test::TemporaryDirectory;

TEST_CASE("what is written is read back: strides, scalars, empty tensors, odd sizes") {
  const TemporaryDirectory directory;
  const std::map<std::string, at::Tensor> tensors{
      {"bytes", at::arange(3, at::kByte)},         {"transposed", at::arange(6, at::kFloat).view({2, 3}).t()},
      {"half", at::arange(5, at::kHalf)},          {"scalar", at::tensor(2.5, at::kDouble)},
      {"empty", at::empty({0, 4}, at::kBFloat16)},
  };
  write_safetensors(directory / "t.safetensors", tensors, {{"format", "pt"}});
  const SafetensorsFile file(directory / "t.safetensors");
  REQUIRE(file.tensors().size() == tensors.size());
  for (const auto& [name, tensor] : tensors) {
    INFO(name);
    CHECK(file.tensor(name).scalar_type() == tensor.scalar_type());
    CHECK(file.tensor(name).sizes() == tensor.sizes());
    CHECK(at::equal(file.tensor(name), tensor));
  }
  CHECK(file.metadata() == std::map<std::string, std::string>{{"format", "pt"}});
}

TEST_CASE("a dtype without a name in the format is refused, and no file appears") {
  const TemporaryDirectory directory;
  CHECK(data_error(directory.path(), [&] {
          write_safetensors(directory / "t.safetensors", {{"c", at::empty({1}, at::kComplexFloat)}});
        }) == "t.safetensors: tensor \"c\" has dtype ComplexFloat, which safetensors has no name for");
  CHECK(std::filesystem::is_empty(directory.path()));
}

}  // namespace
}  // namespace modelopt::checkpoint
