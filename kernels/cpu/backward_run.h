// The backward of the CPU backend.
#pragma once

#include "kernels/backend.h"

namespace modelopt::kernels::cpu {

/// Differentiates with ATen's threads, on the widest instruction set there is. A stored mask is not read: see
/// backward_kernel.h. Memory beyond the gradients: scratch per thread, and for half types grad_k and grad_v in fp32.
void run_backward(const BackwardProblem& problem);

}  // namespace modelopt::kernels::cpu
