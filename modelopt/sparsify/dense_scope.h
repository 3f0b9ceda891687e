// A scope that works on the dense model.
#pragma once

#include <modelopt/sparsify/sparsify.h>

namespace modelopt {

/// Takes what sparsify() has done off the model, and again at its end, whatever happens in between.
class DenseScope {
 public:
  explicit DenseScope(torch::nn::Module& model) : model_(model) { desparsify(model_); }
  ~DenseScope() { desparsify(model_); }
  DenseScope(const DenseScope&) = delete;
  DenseScope& operator=(const DenseScope&) = delete;

 private:
  torch::nn::Module& model_;
};

}  // namespace modelopt
