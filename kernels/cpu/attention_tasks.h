// How a problem is cut into units of work.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/attention_call.h"

namespace modelopt::kernels::cpu {

/// The tasks of a problem, the longest first, so that threads that take the next free one end together. Together they
/// cover each query row of each sequence and head once. How rows are cut changes no result (flash_attention.h), save
/// that skip-softmax and counting need whole query blocks, one head at a time.
///
/// `block_lanes` is the kernel's; `threads` the number of workers.
/// `by_query_block`: cut into query blocks and heads even without skip-softmax.
[[nodiscard]] std::vector<AttentionTask> attention_tasks(const AttentionProblem& problem, int block_lanes, int threads,
                                                         bool by_query_block);

}  // namespace modelopt::kernels::cpu
