// The CUDA backends. On a machine where one of them cannot run, every test fails with the reason.
#include "kernels/tested_backend.h"

namespace modelopt::kernels::testing {

const std::vector<TestedBackend>& tested_backends() {
  static const std::vector<TestedBackend> backends = [] {
    std::vector<TestedBackend> list{
        {.name = "sm80",
         .device = c10::DeviceType::CUDA,
         .dtypes = {at::kFloat, at::kBFloat16, at::kHalf}},
        {.name = "sm90",
         .device = c10::DeviceType::CUDA,
         .dtypes = {at::kBFloat16, at::kHalf},
         .needs_alignment = true,
         .records_apart = true,
         .skips = false},
    };
    for (const TestedBackend& backend : list) {
      const AttentionTraits traits{.device = backend.device, .dtype = at::kHalf, .head_dim = 64};
      static_cast<void>(select_attention_backend(traits, backend.name));  // throws with the reason
    }
    return list;
  }();
  return backends;
}

}  // namespace modelopt::kernels::testing
