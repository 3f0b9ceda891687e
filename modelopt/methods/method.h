// A sparse attention method: how a configuration becomes something that sits in a module's slot.
#pragma once

#include <memory>
#include <optional>
#include <string_view>

#include <modelopt/attention/attention_slot.h>
#include <modelopt/config/sparse_config.h>
#include <modelopt/kernels/attention.h>

namespace modelopt::methods {

/// A method with the parameters of one rule, checked against one module.
struct BoundMethod {
  std::shared_ptr<const attention::ActiveMethod> active;
  /// What its sparse calls ask of the attention operator; nullopt if they do not call it (eager methods).
  std::optional<kernels::AttentionTraits> operator_traits;
};

class SparseAttentionMethod {
 public:
  virtual ~SparseAttentionMethod() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  [[nodiscard]] virtual int version() const = 0;

  /// Validates the parameters for a module with these traits. Throws ConfigError for parameters out of their domain or
  /// of another method, Unsupported if the method cannot be active on such a module.
  [[nodiscard]] virtual BoundMethod bind(const config::MethodConfig& parameters,
                                         const attention::AttentionModuleTraits& module) const = 0;
};

}  // namespace modelopt::methods
