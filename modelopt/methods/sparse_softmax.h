// N:M sparse softmax, on the fused and on the eager backend.
#pragma once

#include <memory>

#include <modelopt/methods/method.h>

namespace modelopt::methods {

/// Method "sparse_softmax", version 1; parameters config::SparseSoftmaxConfig. Sparse in prefill, dense in decode.
class SparseSoftmax final : public SparseAttentionMethod {
 public:
  [[nodiscard]] std::string_view name() const override;
  [[nodiscard]] int version() const override { return 1; }
  [[nodiscard]] BoundMethod bind(const config::MethodConfig& parameters,
                                 const attention::AttentionModuleTraits& module) const override;
};

}  // namespace modelopt::methods
