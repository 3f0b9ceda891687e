// The slot an attention module owns: the method that is active on it. Only sparsify() fills and empties slots.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <modelopt/attention/attention_call.h>
#include <modelopt/attention/attention_plan.h>

namespace modelopt::attention {

/// Undoes on destruction what a method did to the plan. Lives for one forward.
class ActivationScope {
 public:
  virtual ~ActivationScope() = default;
};

/// Thresholds that were taken from a calibration, so far: one for each sequence of each call.
struct ThresholdCounts {
  std::int64_t calibrated = 0;
  std::int64_t out_of_range = 0;  ///< of these, for a target or a length outside of what was measured, or clamped
  std::int64_t clamped = 0;       ///< of these, more than the operator takes, and lowered

  ThresholdCounts& operator+=(const ThresholdCounts& other) {
    calibrated += other.calibrated;
    out_of_range += other.out_of_range;
    clamped += other.clamped;
    return *this;
  }
  bool operator==(const ThresholdCounts&) const = default;
};

/// A method bound to its parameters, as it sits in a slot.
class ActiveMethod {
 public:
  virtual ~ActiveMethod() = default;
  /// Registered name, e.g. "sparse_softmax".
  [[nodiscard]] virtual std::string name() const = 0;
  /// Parameters as one JSON object, for reports and exports.
  [[nodiscard]] virtual std::string parameters_json() const = 0;
  /// Edits the plan for this call (or leaves it dense, as in decode); the returned scope, which may be null, restores
  /// it.
  [[nodiscard]] virtual std::unique_ptr<ActivationScope> activate(AttentionPlan& plan,
                                                                  const AttentionCall& call) const = 0;
  /// Of a method whose thresholds are calibrated.
  [[nodiscard]] virtual ThresholdCounts threshold_counts(Phase) const { return {}; }
};

/// Facts about the owning module that decide whether a method can be active on it.
struct AttentionModuleTraits {
  std::string name;        ///< in the model, for messages; sparsify() fills it in
  std::string class_name;  ///< HuggingFace's class, e.g. "LlamaAttention"
  std::int64_t num_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t sliding_window = 0;
  std::int64_t max_position_embeddings = 0;  ///< context length of the model; 0 = unknown
  bool is_causal = true;
  at::ScalarType dtype = at::ScalarType::Float;
  c10::Device device = c10::Device(c10::DeviceType::CPU);
};

/// State of one module: a method, or none (dense), and how its operator is to run.
struct AttentionSlot {
  std::shared_ptr<const ActiveMethod> method;  ///< null: dense
  std::string kernel = "auto";                 ///< backend of the operator (--kernel)
  bool collect_stats = false;
};

/// Implemented by every attention module that takes part in sparsify(). Derive a torch::nn::Module from it as well.
class AttentionSlotOwner {
 public:
  virtual ~AttentionSlotOwner() = default;
  [[nodiscard]] virtual AttentionSlot& attention_slot() = 0;
  [[nodiscard]] virtual AttentionModuleTraits attention_traits() const = 0;
};

}  // namespace modelopt::attention
