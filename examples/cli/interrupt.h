// Ctrl-C during work that must be undone: the handler only takes a note, the work stops where it asks.
#pragma once

namespace modelopt::cli {

/// While it lives, SIGINT, SIGTERM and SIGHUP are noted instead of ending the program.
class InterruptScope {
 public:
  InterruptScope();
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

  /// Throws Error if a signal has come.
  void check() const;
};

}  // namespace modelopt::cli
