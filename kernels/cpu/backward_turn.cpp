#include "kernels/cpu/backward_turn.h"

#include <limits>

#include "kernels/cpu/backward_call.h"

namespace modelopt::kernels::cpu {

void await_turn(const KeyTurn& turn, std::int64_t end) {
  if (turn.previous_ == nullptr) return;
  if (turn.waits_for_all_) end = std::numeric_limits<std::int64_t>::max();
  const std::atomic<std::int64_t>& passed = turn.previous_->passed_;
  for (std::int64_t seen = passed.load(std::memory_order_acquire); seen < end;
       seen = passed.load(std::memory_order_acquire)) {
    passed.wait(seen, std::memory_order_acquire);
  }
}

void pass_turn(KeyTurn& turn, std::int64_t end) {
  turn.passed_.store(end, std::memory_order_release);
  turn.passed_.notify_all();
}

}  // namespace modelopt::kernels::cpu
