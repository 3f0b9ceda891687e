// The backends on CPU tensors.
#include "kernels/tested_backend.h"

namespace modelopt::kernels::testing {

const std::vector<TestedBackend>& tested_backends() {
  static const std::vector<TestedBackend> backends = [] {
    std::vector<TestedBackend> list;
    for (const std::string& name : cpu_backends()) {
      list.push_back({.name = name, .dtypes = {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}});
    }
    return list;
  }();
  return backends;
}

}  // namespace modelopt::kernels::testing
