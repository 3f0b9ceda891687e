// Preparation of the skip-softmax kernel: prepare() for query blocks.
#pragma once

#include "kernels/cuda/sm90/schedule.h"

namespace modelopt::kernels::cuda::sm90 {

/// One CTA works on one query block of skip-softmax, and a tile of keys is one key block: the decision is the CTA's.
constexpr int kSkipRows = 128;
constexpr int kSkipKeys = 128;

/// As prepare() for the sequences that skip, with tiles of kSkipRows rows at multiples of kSkipRows of the absolute
/// position; `log_lambda` [batch] gets ln(lambda) of each sequence.
void prepare_skip(const AttentionParams& params, const Schedule& schedule, const MapTemplates& templates,
                  float* log_lambda, cudaStream_t stream);

/// As prepare() for the sequences that prepare_skip() leaves out: those with a lambda of 0 beside others are the dense
/// kernel's, so that they have its bits. Rows that no sequence owns are left to prepare_skip().
void prepare_beside_skip(const AttentionParams& params, const Schedule& schedule, const MapTemplates& templates,
                         int warpgroups, cudaStream_t stream);

}  // namespace modelopt::kernels::cuda::sm90
