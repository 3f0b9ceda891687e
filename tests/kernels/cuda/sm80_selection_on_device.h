// What the sm80 kernels do between scores and sparse tensor cores, on the GPU.
#pragma once

#include <cstdint>
#include <vector>

namespace modelopt::testing {

/// The kept pair of each group of four scores, as keep_1_of_4 (n = 1) and keep_2_of_4 (n = 2) give it.
struct KeptPairs {
  std::vector<float> first, second;
  std::vector<std::uint32_t> metadata;  ///< the whole word, of which the group has the field at `shift`
};
KeptPairs keep_pairs_on_device(const std::vector<float>& scores, int n, int shift);

/// A warp's product of the kept scores (2:4) with values: scores [16][64], values [64][8], result [16][8]. All are
/// rounded to bf16.
std::vector<float> sparse_product_on_device(const std::vector<float>& scores, const std::vector<float>& values);

}  // namespace modelopt::testing
