#include "kernels/cuda/launch.h"

#include <modelopt/error.h>

namespace modelopt::kernels::cuda {

void run_sm80(const AttentionParams&, const Workspace&, cudaStream_t) { throw Unsupported("sm80"); }

}  // namespace modelopt::kernels::cuda
