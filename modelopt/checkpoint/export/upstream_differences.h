// What other software makes of an exported `sparse_attention_config`, where that is not what runs here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <modelopt/sparsify/report.h>

namespace modelopt::checkpoint {

/// A sentence for each difference; empty: other readers see the same.
///
/// NVIDIA Model-Optimizer's reader applies the first skip-softmax group to every attention module that this group does
/// not ignore, and the first N:M group with it; without a skip-softmax group it applies the first N:M group to every
/// attention module. The format has no fixed thresholds, no block sizes, and of calibrations only the exponential form:
/// where a table is in use, the sentence says which shares the exponential gives by that table.
[[nodiscard]] std::vector<std::string> upstream_differences(const SparsifyReport& report);

/// The share of blocks that other readers skip in sequences of `length` tokens, by the calibration's table: they use
/// its exponential, which must be there, and skip nothing with a threshold of 1 or more.
[[nodiscard]] double share_for_other_readers(const config::PhaseCalibration& calibration, double target_sparsity,
                                             std::int64_t length);

}  // namespace modelopt::checkpoint
