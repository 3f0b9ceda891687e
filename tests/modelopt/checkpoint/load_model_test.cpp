#include <modelopt/checkpoint/load_model.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <map>

#include <modelopt/checkpoint/checkpoint.h>
#include <modelopt/checkpoint/safetensors_writer.h>
#include <modelopt/models/causal_lm.h>
#include <modelopt/util/file.h>

#include "modelopt/checkpoint/test_files.h"

namespace modelopt::checkpoint {
namespace {

namespace fs = std::filesystem;
using test::data_error;
using test::TemporaryDirectory;
using Tensors = std::map<std::string, at::Tensor>;

const fs::path kModels = fs::path(MODELOPT_TEST_DATA) / "models";

// The tiny model's directory, with `config_name` as its config.json.
void copy_model(const std::string& name, const std::string& config_name, const TemporaryDirectory& to) {
  for (const auto& entry : fs::directory_iterator(kModels / name))
    if (entry.path().filename() != "config.json") fs::copy(entry.path(), to.path());
  fs::copy(kModels / name / config_name, to / "config.json");
}

Tensors tensors_of(const fs::path& directory) {
  const Checkpoint checkpoint(directory);
  Tensors tensors;
  for (const std::string& name : checkpoint.names()) tensors[name] = checkpoint.tensor(name).clone();
  return tensors;
}

// The error of loading the tiny model `name` with its weights changed by `edit`.
template <typename Edit>
std::string load_error(const std::string& name, Edit&& edit) {
  const TemporaryDirectory directory;
  fs::copy(kModels / name / "config.json", directory / "config.json");
  Tensors tensors = tensors_of(kModels / name);
  edit(tensors);
  write_safetensors(directory / "model.safetensors", tensors);
  const std::string prefix = directory.path().string() + ": ";
  const std::string message = data_error({}, [&] { static_cast<void>(load_model(directory.path())); });
  return message.starts_with(prefix) ? message.substr(prefix.size()) : message;
}

double max_difference(const at::Tensor& a, const at::Tensor& b) {
  REQUIRE(a.sizes() == b.sizes());
  return (a - b).abs().max().item().toDouble();
}

TEST_CASE("the golden logits and hidden states of every tiny model, in both styles of config.json") {
  const std::string name = GENERATE("llama", "llama_bf16", "llama_llama3rope", "llama_sharded", "llama_tied_mqa",
                                    "mistral", "mistral_sliding", "qwen2", "qwen3");
  const std::string config_name = GENERATE("config.json", "config_v4.json");
  INFO(name << " with " << config_name);
  const TemporaryDirectory directory;
  copy_model(name, config_name, directory);
  const LoadedModel loaded = load_model(directory.path(), {.dtype = at::kFloat});

  const SafetensorsFile golden(directory / "golden.safetensors");
  const at::Tensor ids = golden.tensor("input_ids").to(at::kLong), logits = golden.tensor("logits");
  models::ModelInput input;
  input.input_ids = ids.flatten();
  input.lengths.assign(static_cast<std::size_t>(ids.size(0)), ids.size(1));
  input.output_hidden_states = true;
  const models::ModelOutput output = loaded.model->forward(input);

  constexpr double kTolerance = 5e-5;
  CHECK(max_difference(output.logits.view(logits.sizes()), logits) < kTolerance);
  const at::Tensor hidden = golden.tensor("hidden_states");
  CHECK(max_difference(at::stack(output.hidden_states).view(hidden.sizes()), hidden) < kTolerance);
}

TEST_CASE("parameters of the file's dtype are the mapped memory, others are converted") {
  const LoadedModel own = load_model(kModels / "llama_bf16");
  CHECK(own.config.dtype == at::kBFloat16);
  CHECK(own.model->dtype() == at::kBFloat16);
  CHECK_FALSE(own.model->is_training());
  const Tensors tensors = tensors_of(kModels / "llama_bf16");
  const LoadedModel wide = load_model(kModels / "llama_bf16", {.dtype = at::kFloat});
  CHECK(wide.config.dtype == at::kFloat);
  const auto own_parameters = own.model->named_parameters(), wide_parameters = wide.model->named_parameters();
  REQUIRE(own_parameters.size() == tensors.size());
  for (const auto& [name, tensor] : tensors) {
    INFO(name);
    CHECK(at::equal(own_parameters[name], tensor));
    CHECK(own_parameters[name].storage().nbytes() == static_cast<std::size_t>(tensor.nbytes()));
    CHECK_FALSE(own_parameters[name].storage().resizable());  // memory of the mapping, not of torch's allocator
    CHECK(at::equal(wide_parameters[name], tensor.to(at::kFloat)));
    CHECK(wide_parameters[name].storage().resizable());
  }
}

TEST_CASE("dtype auto is the weights' own, or config.json's where they differ") {
  const TemporaryDirectory directory;
  copy_model("llama_bf16", "config.json", directory);
  Tensors tensors = tensors_of(directory.path());
  for (auto& [name, tensor] : tensors) tensor = tensor.to(at::kHalf);
  write_safetensors(directory / "model.safetensors", tensors);
  CHECK(load_model(directory.path()).model->dtype() == at::kHalf);
  tensors["model.norm.weight"] = tensors["model.norm.weight"].to(at::kFloat);
  write_safetensors(directory / "model.safetensors", tensors);
  CHECK(load_model(directory.path()).model->dtype() == at::kBFloat16);
}

TEST_CASE("progress counts every byte of the file") {
  std::uint64_t last = 0, total = 0;
  int calls = 0;
  LoadOptions options;
  options.progress = [&](std::uint64_t done, std::uint64_t all) {
    CHECK(done > last);
    last = done;
    total = all;
    ++calls;
  };
  static_cast<void>(load_model(kModels / "llama_sharded", options));
  CHECK(total == 571136);
  CHECK(last == total);
  CHECK(calls == 30);
}

TEST_CASE("weights that do not fit config.json are named") {
  const std::string prefix = "the weights do not fit config.json: ";
  CHECK(load_error("llama", [](Tensors& t) { t.erase("model.norm.weight"); }) ==
        prefix + "missing tensors: model.norm.weight");
  CHECK(load_error("llama", [](Tensors& t) { t["model.layers.2.mlp.up_proj.weight"] = at::ones({1}); }) ==
        prefix + "unexpected tensors: model.layers.2.mlp.up_proj.weight");
  CHECK(load_error("llama", [](Tensors& t) { t["model.norm.weight"] = at::ones({63}); }) ==
        prefix + "model.norm.weight has shape [63], expected [64]");
  CHECK(load_error("llama", [](Tensors& t) { t["model.norm.weight"] = at::ones({64}, at::kLong); }) ==
        prefix + "model.norm.weight has dtype I64, expected F32, F16 or BF16");
  CHECK(load_error("llama",
                   [](Tensors& t) {
                     t["lm_head.bias"] = at::ones({320});
                     t["model.norm.weight"] = at::ones({1, 64});
                     t.erase("model.embed_tokens.weight");
                   }) ==
        prefix +
            "missing tensors: model.embed_tokens.weight; unexpected tensors: lm_head.bias; model.norm.weight has shape "
            "[1, 64], expected [64]");
  CHECK(load_error("llama", [](Tensors& t) {
          t = {{"x", at::ones({1})}};
        }).ends_with(" and 13 more; unexpected tensors: x"));
}

TEST_CASE("a tied head may be stored if it is the embedding") {
  const auto set_head = [](double change) {
    return [change](Tensors& t) { t["lm_head.weight"] = t["model.embed_tokens.weight"] + change; };
  };
  CHECK(load_error("llama_tied_mqa", set_head(0)) == "no error");
  CHECK(load_error("llama_tied_mqa", set_head(1)) ==
        "lm_head.weight differs from model.embed_tokens.weight, but config.json says tie_word_embeddings");
}

TEST_CASE("frequencies that old files carry are left aside") {
  CHECK(load_error("llama", [](Tensors& t) { t["model.layers.0.self_attn.rotary_emb.inv_freq"] = at::ones({8}); }) ==
        "no error");
}

TEST_CASE("options that cannot be met are refused") {
  const auto message_of = [](const LoadOptions& options) -> std::string {
    try {
      static_cast<void>(load_model(kModels / "llama", options));
    } catch (const InvalidArgument& error) {
      return error.what();
    } catch (const Unsupported& error) {
      return error.what();
    }
    return "no error";
  };
  CHECK(message_of({.dtype = at::kDouble}) == "dtype Double, expected float32, float16 or bfloat16");
  CHECK(message_of({.device = at::Device(at::kMeta)}) == "device meta: expected cpu or cuda");
}

}  // namespace
}  // namespace modelopt::checkpoint
