#include <modelopt/methods/skip_blocks.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/cummax.h>

#include <cmath>
#include <limits>

namespace modelopt::methods {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::int64_t round_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b * b; }
std::int64_t modulo(std::int64_t a, std::int64_t b) { return ((a % b) + b) % b; }  // in [0, b), a may be negative

}  // namespace

at::Tensor keys_not_skipped(const attention::EagerScores& scores, double lambda, BlockSize size) {
  const auto [br, bc] = size;
  const std::int64_t heads = scores.raw.size(0), rows = scores.raw.size(1), keys = scores.raw.size(2);
  // Whole blocks: what is added is not visible, so that it has no vote.
  const std::int64_t above = modulo(scores.first_position, br);
  const std::int64_t below = round_up(above + rows, br) - above - rows;
  const at::Tensor raw =
      at::constant_pad_nd(scores.raw.detach(), {0, round_up(keys, bc) - keys, above, below}, -kInfinity)
          .unflatten(2, {-1, bc});  // [heads, padded rows, key blocks, bc]

  const at::Tensor sees = (raw != -kInfinity).any(3);
  const at::Tensor block_max = raw.masked_fill(raw.isnan(), -kInfinity).amax(3);  // a NaN is no maximum
  const at::Tensor running_max = std::get<0>(at::cummax(block_max, 2));
  // as kernels/skip.h: the difference before the scale, in the scores' type, then in fp32
  const float log_lambda = static_cast<float>(std::log(static_cast<double>(static_cast<float>(lambda))));
  const at::Tensor far_below = ((block_max - running_max) * scores.scale).to(at::kFloat) < log_lambda;

  const at::Tensor votes = (far_below | ~sees).unflatten(1, {-1, br});  // [heads, query blocks, br, key blocks]
  const at::Tensor skipped = votes.all(2, /*keepdim=*/true).unsqueeze(4);
  return (~skipped)
      .expand({heads, votes.size(1), br, votes.size(3), bc})
      .flatten(3, 4)
      .flatten(1, 2)
      .narrow(1, above, rows)
      .narrow(2, 0, keys);
}

}  // namespace modelopt::methods
