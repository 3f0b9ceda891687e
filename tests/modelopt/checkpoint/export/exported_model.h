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

/// Rules with every kind of method, for llama's two layers: blocks that are small enough to be skipped in 100 tokens.
inline constexpr const char* kFixedThreshold =
    R"({"*attn*": {"method": "skip_softmax", "skip_softmax_threshold": 0.9, "br": 4, "bc": 8}})";
inline constexpr const char* kCalibrated =
    R"({"*attn*": {"method": "skip_softmax", "br": 4, "bc": 8, "target_sparsity": {"prefill": 0.4, "decode": 0.5},
        "initial_disabled_steps": 3,
        "threshold_calibration": {
          "br": 4, "bc": 8, "provenance": {"data_hash": ")"
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    R"(", "seed": 7, "samples": 16},
          "prefill": {"form": "table",
            "exponential": {"a": 30.0, "b": 2.5, "fit": {"length": 4096, "points": 12, "r_squared": 0.97,
              "min_sparsity": 0.15, "max_sparsity": 0.6, "min_length": 50, "max_length": 8192}},
            "table": {"lengths": [50, 8192], "thresholds": [0.1, 0.5, 0.9],
              "shares": [[0.05, 0.3, 0.7], [0.2, 0.6, 0.8]], "layer_spread": [0.01, 0.02, 0.03]}},
          "decode": {"form": "exponential", "exponential": {"a": 10.0, "b": 1.5}}}}})";
inline constexpr const char* kCombination =
    R"({"*layers.1.*": {"method": "flash_skip_softmax", "br": 4, "bc": 8, "target_sparsity": 0.4,
        "sparsity_n": 2, "sparsity_m": 4, "dense_window_size": 8, "export_sparse_softmax": true,
        "threshold_calibration": {"br": 4, "bc": 8,
          "prefill": {"form": "exponential", "exponential": {"a": 30.0, "b": 2.5}},
          "decode": {"form": "exponential", "exponential": {"a": 10.0, "b": 1.5}}}},
        "default": {"enable": false}})";
/// Different methods and parameters per layer.
inline constexpr const char* kSeveralSets =
    R"({"*layers.0.*": {"method": "sparse_softmax", "sparsity_n": 1, "dense_window_size": 8, "backend": "eager"},
        "*layers.1.*": {"method": "skip_softmax", "br": 4, "bc": 8,
          "thresholds": {"prefill": [0.8, 0.9], "decode": [0.7, 0.9]}}})";

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
