// What a configuration may say about each method: names, parameters, ranges. Validation, JSON output, the JSON schema
// and the reference table in docs/configuration.md are all derived from these descriptors; defaults are those of the
// structs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <modelopt/config/sparse_config.h>

namespace modelopt::config {

/// An integer parameter of a method.
struct FieldDescriptor {
  std::string_view name;
  std::string_view alias;  ///< other accepted name, or empty
  std::string_view title;
  std::string_view description;
  std::int64_t minimum = 0;
  std::int64_t maximum = 0;
  std::vector<std::int64_t> choices;  ///< if not empty, the only values
  std::string_view below;             ///< name of a field with choices that this one must be less than, or empty
  std::int64_t (*get)(const MethodConfig&) = nullptr;
  void (*set)(MethodConfig&, std::int64_t) = nullptr;
};

/// Another name of a method, which may demand one backend.
struct MethodAlias {
  std::string_view name;
  std::optional<MethodBackend> backend;
};

struct MethodDescriptor {
  std::string_view name;
  std::string_view title;
  std::string_view description;
  MethodConfig defaults;
  std::vector<MethodAlias> aliases;
  std::vector<MethodBackend> backends;  ///< those it can run on
  std::vector<FieldDescriptor> fields;
  MethodBackend (*get_backend)(const MethodConfig&) = nullptr;
  void (*set_backend)(MethodConfig&, MethodBackend) = nullptr;
};

/// A value out of its range.
struct FieldProblem {
  std::string_view field;
  std::int64_t value = 0;
  std::string expectation;
};

/// One per alternative of MethodConfig, in that order.
[[nodiscard]] const std::vector<MethodDescriptor>& method_descriptors();

[[nodiscard]] const MethodDescriptor& descriptor_of(const MethodConfig& method);

/// "4 or 8", "an integer from 0 to 7".
[[nodiscard]] std::string expected_values(const FieldDescriptor& field);

/// All names and aliases, for messages: "sparse_softmax or triton_sparse_softmax".
[[nodiscard]] std::string known_method_names();

/// Why a method that others have does not exist here ("is not built yet …", "is not supported …"); nullopt for other
/// names.
[[nodiscard]] std::optional<std::string> why_method_is_missing(std::string_view name);

/// Parameters out of their ranges. Empty for every method that parse_config returns; for those made in C++.
[[nodiscard]] std::vector<FieldProblem> validate(const MethodConfig& method);

}  // namespace modelopt::config
