// What sparsify() did, module by module.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include <modelopt/config/sparse_config.h>

namespace modelopt {

struct ModuleReport {
  std::string name;        ///< as in named_modules(), e.g. "model.layers.3.self_attn"
  std::string class_name;  ///< e.g. "LlamaAttention"
  std::string rule;        ///< the pattern that decided, or "default"
  std::string method;      ///< registered name; empty: dense
  std::string parameters;  ///< the method's parameters as one JSON object; "{}" for dense
  std::string backend;     ///< what runs in prefill: "eager", or the operator's backend ("cpu", "reference", …)
  std::optional<config::MethodConfig> config;  ///< `method` and `parameters`, typed; absent for dense

  [[nodiscard]] bool is_sparse() const { return !method.empty(); }
};

struct SparsifyReport {
  std::vector<ModuleReport> modules;            ///< all attention modules, in the model's order
  std::vector<std::string> unmatched_patterns;  ///< only where SparsifyOptions::allow_unmatched permits them

  [[nodiscard]] std::size_t sparse_modules() const;
};

/// {"modules": [{"name": …, "class": …, "rule": …, "method": null | …, "parameters": {…}, "backend": …}],
/// "unmatched_patterns": […]}
[[nodiscard]] nlohmann::ordered_json to_json(const SparsifyReport& report);

/// One line for people: each method with what it keeps or skips, and where methods differ on how many modules it runs:
/// "skip_softmax (0.4 of blocks in prefill by table, 2:4) on 4, sparse_softmax (2:4) on 12"; "dense" where there is
/// none.
[[nodiscard]] std::string summary(const SparsifyReport& report);

/// An aligned table for people: a line for each run of modules that got the same.
[[nodiscard]] std::string to_table(const SparsifyReport& report);

}  // namespace modelopt
