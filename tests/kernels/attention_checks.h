// What a backend returns against the reference and against plain PyTorch operations.
#pragma once

#include <string>

#include "kernels/tested_backend.h"

namespace modelopt::kernels::testing {

/// What plain PyTorch operations give in the inputs' dtype under a mask: scores and softmax in fp32, the weights and
/// the output rounded to the dtype. q, k and v may be on any device, the mask on theirs; metadata is on the CPU.
[[nodiscard]] at::Tensor eager_in_dtype(const AttentionArgs& args, const at::Tensor& attended);

/// The values of a result under the mask it attended to, against attend_under_mask. On the CPU every element lies
/// within a rounding bound derived from the inputs. CUDA kernels round the weights to half types as eager attention
/// does: there the error of the output, its largest and its RMS, is at most twice that of eager_in_dtype, or one
/// rounding of the output; the log-sum-exp keeps to its bound. Returns "" or what is wrong.
[[nodiscard]] std::string check_values(const AttentionArgs& args, const AttentionResult& actual, const at::Tensor& mask,
                                       const TestedBackend& backend);

/// What the call gives on the scalar reference, or on the CPU backend, which is tested against it, where that would
/// take tenths of a second.
[[nodiscard]] AttentionMaskResult reference_result(const AttentionArgs& args);

/// Runs the call on `backend` and checks all that it returns: the mask against the reference's (equal, or for inexact
/// scores different only between scores closer than their rounding bound), the values under the backend's own mask, and
/// statistics if the call collects them. Returns "" or what is wrong.
///
/// Of `reference` the mask and the statistics are read: on Fill::kIntegers they are the same in all dtypes.
[[nodiscard]] std::string check_against(const AttentionMaskResult& reference, const AttentionArgs& args,
                                        const TestedBackend& backend, Fill fill);
/// The same against reference_result().
[[nodiscard]] std::string check_against_reference(const AttentionArgs& args, const TestedBackend& backend, Fill fill);

}  // namespace modelopt::kernels::testing
