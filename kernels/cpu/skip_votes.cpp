#include "kernels/cpu/attention_call.h"
#include "kernels/skip.h"

namespace modelopt::kernels::cpu {
namespace {

template <typename T>
bool all_vote_skip(const T* block_max, const T* running_max, const T* sees, std::int64_t rows, T scale,
                   float log_lambda) {
  for (std::int64_t i = 0; i < rows; ++i) {
    if (sees[i] == 0) continue;
    const T maximum = block_max[i] > running_max[i] ? block_max[i] : running_max[i];
    if (!row_votes_skip(block_max[i], maximum, scale, log_lambda)) return false;
  }
  return true;
}

}  // namespace

bool every_row_votes_skip(const float* block_max, const float* running_max, const float* sees, std::int64_t rows,
                          float scale, float log_lambda) {
  return all_vote_skip(block_max, running_max, sees, rows, scale, log_lambda);
}

bool every_row_votes_skip(const double* block_max, const double* running_max, const double* sees, std::int64_t rows,
                          double scale, float log_lambda) {
  return all_vote_skip(block_max, running_max, sees, rows, scale, log_lambda);
}

}  // namespace modelopt::kernels::cpu
