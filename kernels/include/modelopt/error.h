// The one error family of the project. Messages are a single line: the thing, its value and what was expected.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace modelopt {

/// Base of every exception this project throws on purpose. A std::runtime_error: Python sees a RuntimeError.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An argument of the operator or of an API call is out of its domain.
class InvalidArgument : public Error {
 public:
  using Error::Error;
};

/// The call is well formed, but this build or this machine cannot run it. The message lists what was tried and why not.
class Unsupported : public Error {
 public:
  using Error::Error;
};

/// A sparsify configuration does not validate. One message may report several problems, one per line.
class ConfigError : public Error {
 public:
  using Error::Error;
};

/// A model, tokenizer, checkpoint or data file is unreadable or invalid.
class DataError : public Error {
 public:
  using Error::Error;
};

/// Concatenates printable parts: str("M = ", 5, ", expected 4 or 8").
template <typename... Parts>
[[nodiscard]] std::string str(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

}  // namespace modelopt

/// Throws ErrorType with the concatenated parts unless the condition holds. The parts are evaluated only on failure.
#define MODELOPT_CHECK(condition, ErrorType, ...)                    \
  do {                                                               \
    if (!(condition)) throw ErrorType(::modelopt::str(__VA_ARGS__)); \
  } while (false)
