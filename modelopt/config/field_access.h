// How the types of configuration fields are read from JSON and written to it. Ranges are the domain's matter
// (value_domain.h): reading refuses what the type cannot hold.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include <modelopt/config/field.h>
#include <modelopt/config/sparse_config.h>

namespace modelopt::config {

[[nodiscard]] bool read_value(const nlohmann::ordered_json& json, std::int64_t& value);
[[nodiscard]] bool read_value(const nlohmann::ordered_json& json, bool& value);
[[nodiscard]] bool read_value(const nlohmann::ordered_json& json, double& value);
[[nodiscard]] bool read_value(const nlohmann::ordered_json& json, std::string& value);
[[nodiscard]] bool read_value(const nlohmann::ordered_json& json, std::vector<double>& value);
[[nodiscard]] bool read_value(const nlohmann::ordered_json& json, PhaseThresholds& value);
[[nodiscard]] bool read_value(const nlohmann::ordered_json& json, PhaseTargets& value);
[[nodiscard]] bool read_value(const nlohmann::ordered_json& json, ThresholdCalibration& value);

/// null for what is not there: an empty string, no phase.
[[nodiscard]] nlohmann::ordered_json write_value(std::int64_t value);
[[nodiscard]] nlohmann::ordered_json write_value(bool value);
[[nodiscard]] nlohmann::ordered_json write_value(double value);
[[nodiscard]] nlohmann::ordered_json write_value(const std::string& value);
[[nodiscard]] nlohmann::ordered_json write_value(const std::vector<double>& value);
[[nodiscard]] nlohmann::ordered_json write_value(const PhaseThresholds& value);
[[nodiscard]] nlohmann::ordered_json write_value(const PhaseTargets& value);
[[nodiscard]] nlohmann::ordered_json write_value(const ThresholdCalibration& value);

/// A field whose value is the member that `select(owner)` refers to.
template <typename Owner, typename Select>
[[nodiscard]] Field<Owner> member_field(Field<Owner> field, Select select) {
  field.get = [select](const Owner& owner) { return write_value(select(owner)); };
  field.set = [select](Owner& owner, const nlohmann::ordered_json& json) { return read_value(json, select(owner)); };
  return field;
}

/// A field whose value is the alternative T of the variant that `select(owner)` refers to, while it holds that one.
template <typename T, typename Owner, typename Select>
[[nodiscard]] Field<Owner> alternative_field(Field<Owner> field, Select select) {
  field.get = [select](const Owner& owner) {
    const auto* value = std::get_if<T>(&select(owner));
    return value != nullptr ? write_value(*value) : nlohmann::ordered_json();
  };
  field.set = [select](Owner& owner, const nlohmann::ordered_json& json) {
    T value{};
    if (!read_value(json, value)) return false;
    select(owner) = std::move(value);
    return true;
  };
  return field;
}

}  // namespace modelopt::config
