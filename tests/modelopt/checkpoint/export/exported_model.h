// Sparse tiny models to export and read back.
#pragma once

#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <memory>
#include <string>

#include <modelopt/checkpoint/load_model.h>
#include <modelopt/config/parse.h>
#include <modelopt/models/causal_lm.h>
#include <modelopt/sparsify/sparsify.h>
#include <modelopt/util/file.h>

namespace modelopt::test {

inline const std::filesystem::path kTinyModels = MODELOPT_TEST_DATA "/models";

struct SparseModel {
  std::shared_ptr<models::CausalLM> model;
  config::SparseAttentionConfig config;
  SparsifyReport report;
};

/// The tiny model of this name with the rules of a configuration's `sparse_cfg` applied.
inline SparseModel sparse_model(const std::string& name, const std::string& rules) {
  SparseModel result;
  result.model = checkpoint::load_model(kTinyModels / name).model;
  result.config = config::parse_config(R"({"sparse_cfg": )" + rules + "}", "rules");
  result.report = sparsify(*result.model, result.config);
  return result;
}

inline constexpr const char* kAllModules =
    R"({"*attn*": {"method": "sparse_softmax", "sparsity_n": 1, "dense_window_size": 8},
        "default": {"enable": false}})";

inline at::Tensor logits(models::CausalLM& model, std::int64_t length = 100) {
  const at::NoGradGuard no_grad;
  models::ModelInput input;
  input.input_ids = at::arange(length, at::kLong);
  input.lengths = {length};
  return model.forward(input).logits;
}

inline nlohmann::ordered_json read_json(const std::filesystem::path& path) {
  return nlohmann::ordered_json::parse(read_file(path));
}

}  // namespace modelopt::test
