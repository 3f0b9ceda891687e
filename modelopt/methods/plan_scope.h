// The scope of a method that edits the plan of one forward.
#pragma once

#include <utility>

#include <modelopt/attention/attention_plan.h>
#include <modelopt/attention/attention_slot.h>

namespace modelopt::methods {

/// Remembers the plan and puts it back on destruction.
class PlanScope final : public attention::ActivationScope {
 public:
  explicit PlanScope(attention::AttentionPlan& plan) : plan_(plan), saved_(plan) {}
  ~PlanScope() override { plan_ = std::move(saved_); }
  PlanScope(const PlanScope&) = delete;
  PlanScope& operator=(const PlanScope&) = delete;

 private:
  attention::AttentionPlan& plan_;
  attention::AttentionPlan saved_;
};

}  // namespace modelopt::methods
