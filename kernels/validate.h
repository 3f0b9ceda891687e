// Every check of the operator's arguments that the host can make. All throw InvalidArgument with one line that names
// the argument, its value and what was expected.
#pragma once

#include <modelopt/kernels/attention.h>

#include <vector>

#include "kernels/backend.h"

namespace modelopt::kernels {

/// Tensors that are missing (an undefined at::Tensor), before PyTorch's dispatcher sees them.
void validate_defined(const AttentionArgs& args);

/// The dtype and head_dim of a problem without tensors.
void validate_traits(const AttentionTraits& traits);

/// The thresholds of attention_calibrate.
void validate_trials(const std::vector<double>& trials);

/// Shapes, strides, dtypes, devices and numbers; reads no tensor data and no lengths, so that it also serves meta
/// tensors (sizes may be symbolic; only head counts and head_dim are compared with constants).
void validate_arguments(const AttentionArgs& args);

/// Length bounds, and the lengths themselves, which must be readable here (metadata on the CPU). Returns the sequences
/// with their phase and lambda resolved.
[[nodiscard]] std::vector<Sequence> read_sequences(const AttentionArgs& args);

/// Length bounds, with the metadata left on its GPU: the kernels check the lengths.
[[nodiscard]] DeviceSequences device_sequences(const AttentionArgs& args);

}  // namespace modelopt::kernels
