// What sparsify() did, module by module.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstddef>
#include <string>
#include <vector>

namespace modelopt {

struct ModuleReport {
  std::string name;        ///< as in named_modules(), e.g. "model.layers.3.self_attn"
  std::string class_name;  ///< e.g. "LlamaAttention"
  std::string rule;        ///< the pattern that decided, or "default"
  std::string method;      ///< registered name; empty: dense
  std::string parameters;  ///< the method's parameters as one JSON object; "{}" for dense
  std::string backend;     ///< what runs in prefill: "eager", or the operator's backend ("cpu", "reference", …)

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

/// An aligned table for people: a line for each run of modules that got the same.
[[nodiscard]] std::string to_table(const SparsifyReport& report);

}  // namespace modelopt
