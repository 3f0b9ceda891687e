// The backends that a test executable tests, and calls of the operator on them: inputs and results are CPU tensors,
// whatever the device of the backend, so that one source tests all of them.
#pragma once

#include <modelopt/kernels/attention.h>

#include <ostream>
#include <string>
#include <vector>

#include "kernels/attention_cases.h"

namespace modelopt::kernels::testing {

/// A backend, what it takes and what it returns.
struct TestedBackend {
  std::string name;
  c10::DeviceType device = c10::DeviceType::CPU;
  std::vector<at::ScalarType> dtypes;  ///< the widest of fp32 and half types first
  bool needs_alignment = false;        ///< head_dim a multiple of 8, bases and strides of 16 bytes
  bool records_apart = false;  ///< the mask it returns is found beside its output: attended_mask() reads the output itself
  bool skips = true;                   ///< takes skip-softmax in blocks of any size

  [[nodiscard]] bool is_cuda() const { return device == c10::DeviceType::CUDA; }
  [[nodiscard]] bool takes(at::ScalarType dtype) const;
  /// Those of `wanted` that it takes.
  [[nodiscard]] std::vector<at::ScalarType> those_of(const std::vector<at::ScalarType>& wanted) const;
  /// `dtype` if it takes it, else its widest.
  [[nodiscard]] at::ScalarType dtype_for(at::ScalarType dtype) const;
};
std::ostream& operator<<(std::ostream& out, const TestedBackend& backend);

/// The backends that this executable tests; each of them can run here, or this throws. Every executable links one
/// definition: cpu/tested_backends.cpp or cuda/tested_backends.cpp.
[[nodiscard]] const std::vector<TestedBackend>& tested_backends();
[[nodiscard]] const TestedBackend& tested_backend(const std::string& name);
/// Those that take skip-softmax in blocks of any size.
[[nodiscard]] std::vector<TestedBackend> backends_that_skip();

/// A shape as the backend takes it: dtype_for its dtype, and aligned if it has to be.
[[nodiscard]] CaseShape shape_for(const TestedBackend& backend, CaseShape shape);
[[nodiscard]] std::vector<CaseShape> standard_shapes_for(const TestedBackend& backend, at::ScalarType dtype, Fill fill);
/// Standard settings, and those of skip-softmax if the backend takes it.
[[nodiscard]] std::vector<Setting> all_settings(const TestedBackend& backend);
[[nodiscard]] AttentionArgs on_backend(AttentionArgs args, const TestedBackend& backend);

/// The tensor on `device` with its strides, its offset and all of its storage.
[[nodiscard]] at::Tensor with_storage_on(const at::Tensor& tensor, c10::DeviceType device);
/// The call with its tensors on `device`.
[[nodiscard]] AttentionArgs on_device(AttentionArgs args, c10::DeviceType device);

/// attention() on the device of the named backend, which is one of tested_backends().
[[nodiscard]] AttentionResult run(const AttentionArgs& args);

/// The attended keys, bool [total_q, Hq, keys], keys = the longest key sequence: as attention_with_mask() returns them,
/// or through the identity.
[[nodiscard]] at::Tensor attended_mask(const AttentionArgs& args);

/// The attended keys, read from outputs: with V = D columns of the identity a row's output is not zero in column d iff
/// the row attends to that key. What is attended does not depend on the softmax scale, so a tiny one is taken, with
/// which no weight underflows (skip-softmax decides on scaled scores: its calls keep their scale). A row that sees a
/// NaN or +inf score reads as attending to everything.
[[nodiscard]] at::Tensor mask_through_identity(const AttentionArgs& args);

}  // namespace modelopt::kernels::testing
