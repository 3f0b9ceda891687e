// Models on a GPU beside the same models on the CPU and what transformers computes (CTest label gpu).
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <modelopt/checkpoint/checkpoint.h>
#include <modelopt/checkpoint/load_model.h>
#include <modelopt/checkpoint/safetensors_file.h>
#include <modelopt/config/parse.h>
#include <modelopt/config/presets.h>
#include <modelopt/eval/evaluate.h>
#include <modelopt/models/generate.h>
#include <modelopt/models/rms_norm.h>
#include <modelopt/models/sampling.h>
#include <modelopt/sparsify/sparsify.h>
#include <modelopt/util/device.h>

using namespace modelopt;
using namespace modelopt::models;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::WithinAbs;
using Catch::Matchers::WithinRel;

namespace {

using Ids = std::vector<std::int64_t>;

// A test case may run in a process of its own: asking for the device is what loads LibTorch's CUDA library.
at::Device gpu() {
  require_device(at::kCUDA);
  return at::kCUDA;
}

std::string directory_of(const std::string& name) { return MODELOPT_TEST_DATA "/models/" + name; }

std::shared_ptr<CausalLM> load(const std::string& name, at::Device device,
                               std::optional<at::ScalarType> dtype = at::kFloat) {
  return checkpoint::load_model(directory_of(name), {.dtype = dtype, .device = device}).model;
}

Ids some_ids(std::int64_t count) {
  Ids ids;
  for (std::int64_t i = 0; i < count; ++i) ids.push_back((i * i * 7 + i * 131 + 5) % 320);
  return ids;
}

// Logits of one sequence, on the CPU in fp64.
at::Tensor logits_of(CausalLM& model, const Ids& ids) {
  const at::NoGradGuard no_grad;
  ModelInput input;
  input.input_ids = at::tensor(ids, at::kLong);
  input.lengths = {std::ssize(ids)};
  return model.forward(input).logits.to(at::kCPU, at::kDouble);
}

// Logits of the rows of a tiny model's golden file, in the shape of the golden ones.
at::Tensor golden_rows(CausalLM& model, const checkpoint::SafetensorsFile& golden) {
  const at::NoGradGuard no_grad;
  const at::Tensor ids = golden.tensor("input_ids").to(at::kLong);
  ModelInput input;
  input.input_ids = ids.flatten();
  input.lengths.assign(static_cast<std::size_t>(ids.size(0)), ids.size(1));
  return model.forward(input).logits.to(at::kCPU, at::kFloat).view(golden.tensor("logits").sizes());
}

double max_difference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }
double mean_difference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().mean().item<double>(); }

}  // namespace

TEST_CASE("fp32 logits on the GPU are those of transformers within fp32 rounding, for every architecture") {
  const std::string name = GENERATE("llama", "llama_llama3rope", "llama_sharded", "llama_tied_mqa", "mistral",
                                    "mistral_sliding", "qwen2", "qwen3");
  CAPTURE(name);
  const checkpoint::SafetensorsFile golden(directory_of(name) + "/golden.safetensors");
  const auto model = load(name, gpu());
  CHECK(model->device().is_cuda());
  CHECK(max_difference(golden_rows(*model, golden), golden.tensor("logits")) < 5e-5);  // as on the CPU
}

TEST_CASE("bf16 logits on the GPU are as near to fp32 as those on the CPU") {
  const std::string name = GENERATE("llama_bf16", "qwen3", "mistral_sliding");
  CAPTURE(name);
  const checkpoint::SafetensorsFile golden(directory_of(name) + "/golden.safetensors");
  const at::Tensor expected = golden.tensor("logits");
  const double on_cpu = mean_difference(golden_rows(*load(name, at::kCPU, at::kBFloat16), golden), expected);
  const double on_gpu = mean_difference(golden_rows(*load(name, gpu(), at::kBFloat16), golden), expected);
  CAPTURE(on_cpu, on_gpu);
  CHECK(on_gpu <= 2 * on_cpu);
  CHECK(on_gpu > 0);
}

TEST_CASE("weights reach the GPU bit for bit, and without a dtype they are 16 bits wide there") {
  const auto model = load("llama_bf16", gpu(), std::nullopt);
  CHECK(model->dtype() == at::kBFloat16);
  const checkpoint::Checkpoint file(directory_of("llama_bf16"));
  for (const auto& parameter : model->named_parameters()) {
    CAPTURE(parameter.key());
    CHECK(at::equal(parameter.value().to(at::kCPU), file.tensor(parameter.key())));
  }
  const auto from_fp32 = load("llama", gpu(), std::nullopt);
  CHECK(from_fp32->dtype() == at::kBFloat16);
  CHECK(at::equal(from_fp32->named_parameters()["lm_head.weight"].to(at::kCPU),
                  checkpoint::Checkpoint(directory_of("llama")).tensor("lm_head.weight").to(at::kBFloat16)));
}

TEST_CASE("RMSNorm on the GPU rounds as transformers does") {
  const at::NoGradGuard no_grad;
  const std::int64_t size = GENERATE(16, 96, 2048);
  const at::Tensor weight = at::randn({size}, at::kBFloat16), input = at::randn({4000, size}, at::kBFloat16) * 3;
  const auto on = [&](at::Device device) {
    RMSNorm norm(size, 1e-5, at::kBFloat16, device);
    norm.named_parameters()["weight"].set_data(weight.to(device));
    return norm.forward(input.to(device)).to(at::kCPU, at::kFloat);
  };
  const at::Tensor expected = on(at::kCPU), found = on(gpu());
  // fp32 sums in another order move a value across a rounding of bf16 about once in 2^15 times, and never by two.
  CHECK(found.ne(expected).to(at::kFloat).mean().item<double>() < 1e-3);
  CHECK(((found - expected).abs() <= expected.abs() * 0x1p-6).all().item<bool>());
}

TEST_CASE("tokens are chosen on the GPU as on the CPU") {
  const at::Tensor logits = at::randn({9, 5003}, at::make_generator<at::CPUGeneratorImpl>(4), at::kFloat);
  CHECK(greedy_tokens(logits.to(gpu())) == greedy_tokens(logits));
  const SamplingConfig config =
      GENERATE(SamplingConfig{.do_sample = true}, SamplingConfig{.do_sample = true, .top_k = 7},
               SamplingConfig{.do_sample = true, .temperature = 0.6, .top_p = 0.9});
  const auto draw = [&](const at::Tensor& from) {
    std::vector<at::Generator> generators;
    for (std::uint64_t row = 0; row < 9; ++row) generators.push_back(at::make_generator<at::CPUGeneratorImpl>(row));
    return sample_tokens(from, config, generators);
  };
  CHECK(draw(logits.to(gpu())) == draw(logits));
}

TEST_CASE("a batch continues on the GPU as on the CPU, whole and in chunks") {
  const std::vector<Ids> prompts = {some_ids(40), some_ids(1), some_ids(13)};
  GenerateConfig config;
  config.max_new_tokens = 20;
  config.chunk_size = GENERATE(0, 8);
  const auto on = [&](at::Device device) {
    std::vector<Ids> ids;
    for (const auto& sequence : generate(*load("llama", device), prompts, config).sequences)
      ids.push_back(sequence.ids);
    return ids;
  };
  CHECK(on(gpu()) == on(at::kCPU));
}

TEST_CASE("the default preset on the GPU gives what it gives on the CPU, fused and eager") {
  const Ids ids = some_ids(300);
  const std::string backend = GENERATE("fused", "eager");
  CAPTURE(backend);
  const auto config = config::load_config("SPARSE_SOFTMAX_DEFAULT", {"backend=" + backend});
  const auto on_cpu = load("llama", at::kCPU), on_gpu = load("llama", gpu());
  const at::Tensor dense = logits_of(*on_gpu, ids);
  const SparsifyReport report = sparsify(*on_gpu, config);
  CHECK(report.sparse_modules() == 2);
  CHECK(report.modules.front().backend == (backend == "eager" ? "eager" : "sm80"));  // fp32
  sparsify(*on_cpu, config);
  const at::Tensor found = logits_of(*on_gpu, ids), expected = logits_of(*on_cpu, ids);
  // a selection between scores that are equal within rounding may differ, and changes its row a little
  CHECK(mean_difference(found, expected) < 0.01 * mean_difference(found, dense));
  CHECK(mean_difference(found, dense) > 0);
  desparsify(*on_gpu);
  CHECK(at::equal(logits_of(*on_gpu, ids), dense));
}

TEST_CASE("evaluation on the GPU gives the CPU's figures") {
  const std::vector<Ids> rows = {some_ids(400)};
  const eval::EvalOptions options{.seq_lens = {200}, .windows = 2};
  const std::vector<eval::NamedConfig> configs = {{"default", presets::SPARSE_SOFTMAX_DEFAULT}};
  const auto on_cpu = eval::evaluate(*load("llama", at::kCPU), rows, configs, options).front();
  const auto on_gpu = eval::evaluate(*load("llama", gpu()), rows, configs, options).front();
  CHECK_THAT(on_gpu.dense_nll, WithinAbs(on_cpu.dense_nll, 1e-5));
  CHECK_THAT(on_gpu.nll, WithinAbs(on_cpu.nll, 1e-4));
  CHECK_THAT(*on_gpu.kld_mean, WithinRel(*on_cpu.kld_mean, 0.05));
  CHECK(*on_gpu.kept_fraction == *on_cpu.kept_fraction);
  CHECK_THAT(*on_gpu.top1, WithinAbs(*on_cpu.top1, 0.02));
}

TEST_CASE("what the GPU cannot do is our error with what was asked") {
  const auto model = load("llama", gpu());
  constexpr std::int64_t kTokens = std::numeric_limits<std::int32_t>::max();
  CHECK_THROWS_AS(model->make_cache(1, kTokens), Unsupported);  // 2 layers of 2 x 256 GB
  CHECK_THROWS_WITH(model->make_cache(1, kTokens),
                    ContainsSubstring("a KV cache of 1 x 2147483647 tokens on cuda:0: ") &&
                        ContainsSubstring("out of memory") && !ContainsSubstring("\n"));
  CHECK_THROWS_AS(load("llama", c10::Device("cuda:100")), Unsupported);
}
