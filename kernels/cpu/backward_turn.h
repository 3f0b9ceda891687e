// The order in which tasks add to the gradients of keys: the same in every run, whatever the number of threads.
#pragma once

#include <atomic>
#include <cstdint>

namespace modelopt::kernels::cpu {

/// A task's place in the chain of those that share keys.
///
/// Tasks of a chain go through ascending keys, from and to keys that descend along the chain: a task that has had its
/// turn for keys before `end`, has seen all earlier ones have theirs. Threads start tasks in the order of the chain, so
/// that the one waited for is always running or done.
class KeyTurn {
 public:
  explicit KeyTurn(const KeyTurn* previous) : previous_(previous) {}

  /// Of sequences that share keys: waits for the previous task to end, instead of keeping behind it.
  void wait_for_all() { waits_for_all_ = true; }

 private:
  friend void await_turn(const KeyTurn& turn, std::int64_t end);
  friend void pass_turn(KeyTurn& turn, std::int64_t end);

  const KeyTurn* previous_;  ///< null for the first of a chain
  bool waits_for_all_ = false;
  std::atomic<std::int64_t> passed_{0};  ///< keys before this have what this and all earlier tasks add
};

}  // namespace modelopt::kernels::cpu
