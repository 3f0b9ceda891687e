// Skip-softmax in prefill and decode, alone or with N:M: on the operator, or in place of the softmax.
#pragma once

#include <memory>

#include <modelopt/methods/method.h>

namespace modelopt::methods {

/// Method "skip_softmax", version 1; parameters config::SkipSoftmaxConfig.
///
/// λ of a phase is the first of its thresholds (the others are trials, whose blocks are counted with the statistics),
/// or follows from a calibration, the phase's target and each sequence's full length (SequenceLayout::full_lengths). A
/// calibrated λ of 1 or more is clamped to 0.9999; that, and a target or a length outside of what was measured, is
/// warned about and counted (CalibratedThreshold). A phase without a threshold, λ = 0 or a target of 0 is dense, to the
/// bit.
class SkipSoftmax final : public SparseAttentionMethod {
 public:
  [[nodiscard]] std::string_view name() const override;
  [[nodiscard]] int version() const override { return 1; }
  /// Throws ConfigError also for targets without a calibration, Unsupported where is_causal is not what the module is.
  [[nodiscard]] BoundMethod bind(const config::MethodConfig& parameters,
                                 const attention::AttentionModuleTraits& module) const override;
};

/// Method "flash_skip_softmax", version 1; parameters config::FlashSkipSoftmaxConfig. Eager only; otherwise as
/// SkipSoftmax.
class FlashSkipSoftmax final : public SparseAttentionMethod {
 public:
  [[nodiscard]] std::string_view name() const override;
  [[nodiscard]] int version() const override { return 1; }
  [[nodiscard]] BoundMethod bind(const config::MethodConfig& parameters,
                                 const attention::AttentionModuleTraits& module) const override;
};

}  // namespace modelopt::methods
