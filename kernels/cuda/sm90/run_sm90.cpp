#include "kernels/cuda/launch.h"

#include <modelopt/error.h>

namespace modelopt::kernels::cuda {

void run_sm90(const AttentionParams&, const Workspace&, cudaStream_t) { throw Unsupported("sm90"); }

}  // namespace modelopt::kernels::cuda
