// What a configuration may say about each method and about calibration: names, parameters, ranges. Validation, JSON
// output, the JSON schema and the reference table in docs/configuration.md are all derived from these descriptors;
// defaults are those of the structs.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <modelopt/config/field.h>
#include <modelopt/config/sparse_config.h>

namespace modelopt::config {

/// Another name of a method, which may demand one backend.
struct MethodAlias {
  std::string_view name;
  std::optional<MethodBackend> backend;
};

/// A parameter that is out of its domain, or that contradicts another one.
struct FieldProblem {
  std::string_view field;
  std::string path;   ///< of the part of the value that is wrong: "", ".prefill[1]"
  std::string value;  ///< as JSON
  std::string expectation;
};

struct MethodDescriptor {
  std::string_view name;
  std::string_view title;
  std::string_view description;
  MethodConfig defaults;
  std::vector<MethodAlias> aliases;
  std::vector<MethodBackend> backends;  ///< those it can run on
  std::vector<Field<MethodConfig>> fields;
  MethodBackend (*get_backend)(const MethodConfig&) = nullptr;
  void (*set_backend)(MethodConfig&, MethodBackend) = nullptr;
  /// What is wrong with fields together; null: nothing can be.
  std::vector<FieldProblem> (*contradictions)(const MethodConfig&) = nullptr;
};

/// One per alternative of MethodConfig, in that order.
[[nodiscard]] const std::vector<MethodDescriptor>& method_descriptors();

[[nodiscard]] const MethodDescriptor& descriptor_of(const MethodConfig& method);

/// The fields of the `calibration` block.
[[nodiscard]] const std::vector<Field<CalibrationConfig>>& calibration_fields();

/// All names and aliases, for messages: "sparse_softmax or triton_sparse_softmax".
[[nodiscard]] std::string known_method_names();

/// Why a method that others have does not exist here ("is not supported …"); nullopt for other names.
[[nodiscard]] std::optional<std::string> why_method_is_missing(std::string_view name);

/// Parameters out of their ranges. Empty for all that parse_config returns; for those made in C++.
[[nodiscard]] std::vector<FieldProblem> validate(const MethodConfig& method);
[[nodiscard]] std::vector<FieldProblem> validate(const CalibrationConfig& calibration);

/// Throws ConfigError with all that validate() finds, a line each: method, field, value, expectation.
void check(const MethodConfig& method);

}  // namespace modelopt::config
