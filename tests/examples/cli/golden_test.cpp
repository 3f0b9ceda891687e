// The logits that the program writes beside those of transformers.
#include <ATen/core/Tensor.h>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include <modelopt/checkpoint/safetensors_file.h>

#include "examples/cli/program.h"
#include "modelopt/checkpoint/test_files.h"

namespace modelopt::test {
namespace {

TEST_CASE("logits of the tiny models agree with transformers") {
  const std::string name = GENERATE("llama", "llama_sharded", "qwen3");
  CAPTURE(name);
  const TemporaryDirectory directory;
  const checkpoint::SafetensorsFile golden(tiny_model(name) + "/golden.safetensors");
  const at::Tensor ids = golden.tensor("input_ids").to(at::kLong).contiguous();
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (std::int64_t i = 0; i < ids.size(0); ++i) {
    const auto* row = ids[i].const_data_ptr<std::int64_t>();
    rows.push_back(std::vector<std::int64_t>(row, row + ids.size(1)));
  }
  const std::string out = (directory / "l.safetensors").string();
  const ProgramResult result = run_program(
      {"logits", "--model", tiny_model(name), "--token-ids", write_json(directory / "ids.json", rows), "--out", out});
  REQUIRE(result.exit_code == 0);
  const at::Tensor logits = checkpoint::SafetensorsFile(out).tensor("logits");
  const at::Tensor expected = golden.tensor("logits");
  REQUIRE(logits.sizes() == expected.sizes());
  CHECK(logits.sub(expected).abs().max().item().toDouble() < 5e-5);
}

}  // namespace
}  // namespace modelopt::test
