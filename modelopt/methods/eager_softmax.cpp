#include <modelopt/methods/eager_softmax.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/softmax.h>

#include <limits>

namespace modelopt::methods {

attention::EagerSoftmax softmax_over(const attention::EagerScores& scores, const at::Tensor& selected) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const at::Tensor attended = (scores.raw != -kInfinity) & selected;
  const at::Tensor softmax = at::softmax((scores.raw * scores.scale).masked_fill(~attended, -kInfinity), -1);
  // the softmax of a row of -inf is NaN, and the selection may have dropped the NaN or +inf that a row sees
  const at::Tensor poisoned = (scores.raw.isnan() | (scores.raw == kInfinity)).any(-1, /*keepdim=*/true);
  const at::Tensor probabilities =
      softmax.masked_fill(~attended, 0.0).masked_fill(poisoned, std::numeric_limits<double>::quiet_NaN());
  return {.probabilities = probabilities, .attended = attended};
}

}  // namespace modelopt::methods
