// What a model's attention slots hold, kept for the case that a change fails.
#pragma once

#include <utility>
#include <vector>

#include <modelopt/sparsify/attention_modules.h>

namespace modelopt {

/// Puts the slots back as they were, unless keep() is called.
class SlotGuard {
 public:
  explicit SlotGuard(const std::vector<AttentionModule>& modules) {
    for (const AttentionModule& module : modules) saved_.emplace_back(module.owner, module.owner->attention_slot());
  }
  ~SlotGuard() {
    for (auto& [owner, slot] : saved_) owner->attention_slot() = std::move(slot);
  }
  SlotGuard(const SlotGuard&) = delete;
  SlotGuard& operator=(const SlotGuard&) = delete;

  void keep() { saved_.clear(); }

 private:
  std::vector<std::pair<attention::AttentionSlotOwner*, attention::AttentionSlot>> saved_;
};

}  // namespace modelopt
