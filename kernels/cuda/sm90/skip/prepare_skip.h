// Preparation of the skip-softmax kernel: prepare() for query blocks.
#pragma once

#include "kernels/cuda/sm90/schedule.h"

namespace modelopt::kernels::cuda::sm90 {

/// One CTA works on one query block of skip-softmax, and a tile of keys is one key block: the decision is the CTA's.
constexpr int kSkipRows = 128;
constexpr int kSkipKeys = 128;

/// As prepare(), with tiles of kSkipRows rows at multiples of kSkipRows of the absolute position; `log_lambda` [batch]
/// gets ln(lambda) of each sequence.
void prepare_skip(const AttentionParams& params, const Schedule& schedule, const MapTemplates& templates,
                  float* log_lambda, cudaStream_t stream);

}  // namespace modelopt::kernels::cuda::sm90
