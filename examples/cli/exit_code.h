// Exit codes of the program, and the errors that stand for them beside the library's own.
#pragma once

#include <exception>

#include <modelopt/error.h>

namespace modelopt::cli {

enum ExitCode : int {
  kDone = 0,
  kFailure = 1,      ///< anything not below
  kUsage = 2,        ///< wrong usage, or an invalid configuration
  kInvalidData = 3,  ///< an unreadable or invalid model, tokenizer or data file
  kUnsupported = 4,  ///< the machine cannot run what was asked for
};

/// The command line contradicts itself or names something that does not exist.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// The reader of our stdout has gone (`modelopt presets | head -1`): there is nobody to tell, so the program ends in
/// silence.
class StdoutClosed : public std::exception {
 public:
  [[nodiscard]] const char* what() const noexcept override { return "standard output: its reader has gone"; }
};

/// Reports the exception that is being handled: one line (a line per problem for configurations), never a stack trace.
int report_current_exception();

/// Runs `body` and turns what it throws into "modelopt: error: …" on stderr and an exit code.
template <typename Body>
int guarded(Body&& body) {
  try {
    body();
    return kDone;
  } catch (...) {
    return report_current_exception();
  }
}

}  // namespace modelopt::cli
