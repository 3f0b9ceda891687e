// A fine-tuned sparse model beside the dense one that it comes from, on text that neither was trained on.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <modelopt/models/causal_lm.h>

namespace modelopt::finetune {

/// Means over predicted tokens, natural logarithms.
struct Measurement {
  double teacher_nll = 0.0;
  double student_nll = 0.0;
  double divergence = 0.0;  ///< KL(teacher ‖ student)

  /// What sparsity (and training) costs: negative where the student predicts the text better.
  [[nodiscard]] double gap() const { return student_nll - teacher_nll; }
};

/// Runs both models as they are on each window. `progress` is called with the windows done so far and in total.
[[nodiscard]] Measurement measure(models::CausalLM& teacher, models::CausalLM& student,
                                  const std::vector<std::span<const std::int64_t>>& windows,
                                  const std::function<void(std::int64_t, std::int64_t)>& progress);

}  // namespace modelopt::finetune
