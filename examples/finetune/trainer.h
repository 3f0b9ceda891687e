// One training step after the other: AdamW with clipped gradients on a cosine schedule, over windows of text.
#pragma once

#include <torch/optim/adamw.h>

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <modelopt/models/causal_lm.h>

namespace modelopt::finetune {

struct TrainingOptions {
  std::int64_t steps = 60;  ///< of the whole schedule
  std::int64_t batch = 1;   ///< windows per step, packed into one call
  double learning_rate = 5e-5;
  std::int64_t warmup = 5;  ///< steps of linear rise; then a cosine down to a tenth
  double weight_decay = 0.01;
  double max_grad_norm = 1.0;
  double distill = 0.0;  ///< 0: cross entropy with the text; 1: KL divergence to the teacher; between: both, weighted
  std::uint64_t seed = 0;
};

struct StepResult {
  double loss = 0.0;
  double grad_norm = 0.0;  ///< before clipping
  double learning_rate = 0.0;
};

/// Trains all parameters of `student` as it is, with whatever sparsity sparsify() put into its slots: a training
/// forward is a prefill of whole sequences.
///
/// What step n does depends on the options, the windows and the state after step n - 1, not on how the process got
/// there: a run that was stopped and resumed ends with the same bits (same machine, same number of threads).
class Trainer {
 public:
  using Windows = std::vector<std::span<const std::int64_t>>;

  /// `teacher` runs as it is; it may be null where distill is 0. Throws InvalidArgument without windows, for options
  /// out of their range, or for a teacher that is missing.
  Trainer(models::CausalLM& student, models::CausalLM* teacher, Windows windows, TrainingOptions options);

  StepResult step();

  [[nodiscard]] std::int64_t steps_done() const { return steps_done_; }
  [[nodiscard]] const TrainingOptions& options() const { return options_; }

  /// Parameters by name, and AdamW's two averages of each ("exp_avg.<name>", "exp_avg_sq.<name>").
  [[nodiscard]] std::map<std::string, at::Tensor> parameters() const;
  [[nodiscard]] std::map<std::string, at::Tensor> averages() const;
  /// Puts back what an earlier trainer had after `steps_done` steps. Throws DataError for a tensor that is missing or
  /// of another shape.
  void restore(std::int64_t steps_done, const std::map<std::string, at::Tensor>& parameters,
               const std::map<std::string, at::Tensor>& averages);

 private:
  [[nodiscard]] at::Tensor loss_of_batch();
  [[nodiscard]] const std::span<const std::int64_t>& window(std::int64_t index) const;
  [[nodiscard]] double learning_rate() const;

  models::CausalLM& student_;
  models::CausalLM* teacher_;
  Windows windows_;
  TrainingOptions options_;
  std::vector<std::pair<std::string, at::Tensor>> trained_;
  std::unique_ptr<torch::optim::AdamW> optimizer_;
  std::int64_t steps_done_ = 0;
};

}  // namespace modelopt::finetune
