// The typed sparsity configuration: which attention modules get which method, with which parameters.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <modelopt/error.h>

namespace modelopt::config {

/// How a method runs: `eager` replaces the softmax of an attention computed with ATen operations, `fused` sets
/// parameters of the attention operator. Upstream's names `pytorch` and `triton` are aliases of the two.
enum class MethodBackend { kEager, kFused };

[[nodiscard]] constexpr std::string_view to_string(MethodBackend backend) {
  return backend == MethodBackend::kEager ? "eager" : "fused";
}

/// N:M sparse softmax (docs/semantics.md). Prefill only.
struct SparseSoftmaxConfig {
  std::int64_t sparsity_n = 2;          ///< keys kept in each group of sparsity_m; 0 = off
  std::int64_t sparsity_m = 4;          ///< 4 or 8
  std::int64_t num_sink_tokens = 0;     ///< first keys of a sequence that stay dense
  std::int64_t dense_window_size = 64;  ///< last keys up to the query's own position that stay dense
  MethodBackend backend = MethodBackend::kFused;

  bool operator==(const SparseSoftmaxConfig&) const = default;
};

/// Parameters of one method; one alternative per method. The names are in method_descriptor.h.
using MethodConfig = std::variant<SparseSoftmaxConfig>;

/// What the modules of a rule get: a method if the rule is enabled, dense attention otherwise.
struct Rule {
  bool enable = false;
  std::optional<MethodConfig> method;  ///< present if enabled

  bool operator==(const Rule&) const = default;
};

/// A rule for all attention modules whose name matches the pattern (pattern.h) or whose class name equals it.
struct PatternRule {
  std::string pattern;
  Rule rule;

  bool operator==(const PatternRule&) const = default;
};

/// Rules in the order of the file: the last one that matches a module replaces the earlier ones whole.
struct SparseAttentionConfig {
  std::string name;         ///< of a file that states one
  std::string description;  ///< one sentence of purpose
  std::vector<PatternRule> rules;
  Rule default_rule;  ///< for modules that no pattern matches

  bool operator==(const SparseAttentionConfig&) const = default;
};

}  // namespace modelopt::config
