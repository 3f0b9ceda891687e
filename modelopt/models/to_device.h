// Small host values that a forward needs on its device.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/ScalarType.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace modelopt::models {

/// The values as a tensor [n] on `device`. For a GPU the copy is enqueued from pinned memory: nobody waits.
template <typename T>
[[nodiscard]] at::Tensor to_device(const std::vector<T>& values, at::Device device) {
  const auto options = at::TensorOptions().dtype(c10::CppTypeToScalarType<T>::value).pinned_memory(device.is_cuda());
  const at::Tensor host = at::empty({static_cast<std::int64_t>(values.size())}, options);
  std::copy(values.begin(), values.end(), host.mutable_data_ptr<T>());
  return host.to(device, /*non_blocking=*/true);
}

}  // namespace modelopt::models
