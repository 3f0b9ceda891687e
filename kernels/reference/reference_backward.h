// Gradients in fp64 with plain ATen operations: what the backward of every other backend is compared with.
#pragma once

#include "kernels/backend.h"

namespace modelopt::kernels {

/// Recomputes the softmax from q, k, v in fp64 under `problem.forward.mask`, which must be defined, a few query rows at
/// a time, so that memory does not grow with Lq * Lk. The output is not read. Sequences on the CPU only.
void reference_backward(const BackwardProblem& problem);

}  // namespace modelopt::kernels
