// The values that a key of a configuration may have: one description that validation, the JSON schema and the reference
// share.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace modelopt::config {

/// A value, or a part of one, that is out of its domain.
struct ValueProblem {
  std::string path;   ///< of the part, behind the value's own: "", ".prefill", ".prefill[1]"
  std::string value;  ///< as JSON, cut where it is long
  std::string expectation;
};

struct ValueDomain {
  std::string expectation;            ///< "an integer from 0 to 7"
  nlohmann::ordered_json schema;      ///< JSON schema, without title, description and default
  std::vector<std::int64_t> choices;  ///< if not empty, the only values
  std::int64_t minimum = 0;           ///< of integers
  std::int64_t maximum = 0;           ///< of integers
  /// What is wrong with a value, its type included; empty if it is in the domain.
  std::function<std::vector<ValueProblem>(const nlohmann::ordered_json& value)> problems;
};

/// Whether it is an integer that int64 holds.
[[nodiscard]] bool is_int64(const nlohmann::ordered_json& value);

[[nodiscard]] ValueDomain integers(std::int64_t minimum, std::int64_t maximum);
[[nodiscard]] ValueDomain integer_choices(std::vector<std::int64_t> choices);
/// Positive multiples of `factor` up to `maximum`.
[[nodiscard]] ValueDomain multiples(std::int64_t factor, std::int64_t maximum);
/// Positive integers up to `maximum`, or -1 for what `meaning` says ("the whole prompt").
[[nodiscard]] ValueDomain positive_or_minus_one(std::int64_t maximum, std::string_view meaning);
[[nodiscard]] ValueDomain booleans();
[[nodiscard]] ValueDomain strings();
/// 0 <= x < 1, in fp32 too, as the operator compares.
[[nodiscard]] ValueDomain thresholds();
/// A list of ascending numbers, 0 < x < 1.
[[nodiscard]] ValueDomain threshold_lists();
/// {"prefill": …, "decode": …} of thresholds, or ascending lists of them, equally long.
[[nodiscard]] ValueDomain thresholds_by_phase();
/// A share 0 <= x < 1 for both phases, or {"prefill": …, "decode": …} of them.
[[nodiscard]] ValueDomain targets_by_phase();
/// threshold_calibration.h.
[[nodiscard]] ValueDomain threshold_calibrations();

}  // namespace modelopt::config
