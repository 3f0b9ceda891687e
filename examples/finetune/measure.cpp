#include "measure.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tensor.h>

#include <algorithm>

namespace modelopt::finetune {
namespace {

constexpr std::int64_t kLogitRows = 256;  ///< at once: all logits of a window would take more memory than the model

at::Tensor hidden_states(models::CausalLM& model, std::span<const std::int64_t> window) {
  models::ModelInput input;
  input.input_ids = at::tensor(at::ArrayRef<std::int64_t>(window.data(), window.size()));
  input.lengths = {std::ssize(window)};
  input.logits = models::LogitRows::kNone;
  return model.forward(input).hidden;
}

at::Tensor log_probabilities(const models::CausalLM& model, const at::Tensor& hidden) {
  return at::log_softmax(model.logits(hidden), -1, at::kDouble);
}

}  // namespace

Measurement measure(models::CausalLM& teacher, models::CausalLM& student,
                    const std::vector<std::span<const std::int64_t>>& windows,
                    const std::function<void(std::int64_t, std::int64_t)>& progress) {
  const at::NoGradGuard no_grad;
  Measurement sums;
  std::int64_t tokens = 0;
  for (std::size_t w = 0; w < windows.size(); ++w) {
    const auto window = windows[w];
    const at::Tensor teacher_hidden = hidden_states(teacher, window);
    const at::Tensor student_hidden = hidden_states(student, window);
    const at::Tensor ids = at::tensor(at::ArrayRef<std::int64_t>(window.data(), window.size())).to(teacher.device());
    const std::int64_t predictions = std::ssize(window) - 1;
    for (std::int64_t begin = 0; begin < predictions; begin += kLogitRows) {
      const std::int64_t rows = std::min(kLogitRows, predictions - begin);
      const at::Tensor p = log_probabilities(teacher, teacher_hidden.narrow(0, begin, rows));
      const at::Tensor q = log_probabilities(student, student_hidden.narrow(0, begin, rows));
      const at::Tensor targets = ids.narrow(0, begin + 1, rows).unsqueeze(1);
      sums.teacher_nll -= p.gather(1, targets).sum().item<double>();
      sums.student_nll -= q.gather(1, targets).sum().item<double>();
      sums.divergence += p.exp().mul(p.sub(q)).sum().item<double>();
    }
    tokens += predictions;
    progress(static_cast<std::int64_t>(w) + 1, std::ssize(windows));
  }
  const auto count = static_cast<double>(tokens);
  return {sums.teacher_nll / count, sums.student_nll / count, sums.divergence / count};
}

}  // namespace modelopt::finetune
