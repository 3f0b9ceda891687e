// What sits in the slots while a calibration measures: dense attention that counts.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string_view>
#include <vector>

#include <modelopt/calibration/block_counts.h>
#include <modelopt/methods/method.h>

namespace modelopt::calibration {

/// Counts of all modules since the last clear(). Each module writes its own row.
class CountRecorder {
 public:
  explicit CountRecorder(std::vector<double> thresholds) : thresholds_(std::move(thresholds)) {}

  /// A row for one more module.
  [[nodiscard]] std::size_t add_module();
  void record(std::size_t module, attention::Phase phase, const at::Tensor& counts);
  /// What was counted, and zeros from here on.
  [[nodiscard]] PromptCounts take();

  [[nodiscard]] const std::vector<double>& thresholds() const { return thresholds_; }

 private:
  std::vector<double> thresholds_;
  PromptCounts counts_;
};

/// Stands in for a skip-softmax method of this name: a module that gets it computes dense attention with
/// attention_calibrate (operator.md), in both phases, and adds what each trial would skip to the recorder.
class CalibratingMethod final : public methods::SparseAttentionMethod {
 public:
  CalibratingMethod(std::string_view name, std::shared_ptr<CountRecorder> recorder)
      : name_(name), recorder_(std::move(recorder)) {}

  [[nodiscard]] std::string_view name() const override { return name_; }
  /// Later than every real version, so that a registry finds it first.
  [[nodiscard]] int version() const override { return std::numeric_limits<int>::max(); }
  /// Throws ConfigError for parameters of a method without blocks.
  [[nodiscard]] methods::BoundMethod bind(const config::MethodConfig& parameters,
                                          const attention::AttentionModuleTraits& module) const override;

 private:
  std::string_view name_;
  std::shared_ptr<CountRecorder> recorder_;
};

}  // namespace modelopt::calibration
