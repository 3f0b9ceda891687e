// Evaluates the shared decision functions on the GPU, one thread per group or row.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace modelopt::testing {

/// keep_n_of_m<m> of each group: scores [groups * m], visible [groups]. Throws std::runtime_error with CUDA's message.
std::vector<std::uint32_t> keep_on_device(const std::vector<float>& scores, const std::vector<std::uint32_t>& visible, int n,
                                          int m);

/// row_votes_skip of each row: block_max, running_max [rows].
std::vector<std::uint32_t> votes_on_device(const std::vector<float>& block_max, const std::vector<float>& running_max,
                                           float scale, float log_lambda);

}  // namespace modelopt::testing
