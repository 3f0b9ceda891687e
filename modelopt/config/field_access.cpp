#include <modelopt/config/field_access.h>

#include <algorithm>

namespace modelopt::config {
namespace {

using nlohmann::ordered_json;

/// Calls take(part, phase's member) for each phase of an object; false for another key, or if a call says so.
template <typename Value, typename Take>
bool read_phases(const ordered_json& json, Value& value, Take take) {
  if (!json.is_object()) return false;
  for (const auto& [key, part] : json.items()) {
    if (key != "prefill" && key != "decode") return false;
    if (!take(part, key == "prefill" ? value.prefill : value.decode)) return false;
  }
  return true;
}

}  // namespace

bool read_value(const ordered_json& json, std::int64_t& value) {
  if (!is_int64(json)) return false;
  value = json.get<std::int64_t>();
  return true;
}

bool read_value(const ordered_json& json, bool& value) {
  if (!json.is_boolean()) return false;
  value = json.get<bool>();
  return true;
}

bool read_value(const ordered_json& json, double& value) {
  if (!json.is_number()) return false;
  value = json.get<double>();
  return true;
}

bool read_value(const ordered_json& json, std::string& value) {
  if (!json.is_string()) return false;
  value = json.get<std::string>();
  return true;
}

bool read_value(const ordered_json& json, std::vector<double>& value) {
  if (!json.is_array() || json.empty()) return false;
  if (!std::all_of(json.begin(), json.end(), [](const ordered_json& item) { return item.is_number(); })) return false;
  value = json.get<std::vector<double>>();
  return true;
}

bool read_value(const ordered_json& json, PhaseThresholds& value) {
  PhaseThresholds read;
  const bool fits = read_phases(json, read, [](const ordered_json& part, std::vector<double>& of_phase) {
    return read_value(part.is_array() ? part : ordered_json::array({part}), of_phase);
  });
  if (!fits || json.empty()) return false;
  value = std::move(read);
  return true;
}

bool read_value(const ordered_json& json, PhaseTargets& value) {
  PhaseTargets read;
  const auto take = [](const ordered_json& part, std::optional<double>& of_phase) {
    return part.is_number() && read_value(part, of_phase.emplace());
  };
  const bool fits =
      json.is_number() ? take(json, read.prefill) && take(json, read.decode) : read_phases(json, read, take);
  if (fits) value = read;
  return fits;
}

bool read_value(const ordered_json& json, ThresholdCalibration& value) {
  try {
    value = parse_threshold_calibration(json, "");
    return true;
  } catch (const ConfigError&) {  // the domain says what is wrong with it
    return false;
  }
}

ordered_json write_value(std::int64_t value) { return value; }
ordered_json write_value(bool value) { return value; }
ordered_json write_value(double value) { return value; }
ordered_json write_value(const std::string& value) { return value.empty() ? ordered_json() : ordered_json(value); }
ordered_json write_value(const std::vector<double>& value) { return value; }

ordered_json write_value(const PhaseThresholds& value) {
  ordered_json json = ordered_json::object();
  if (!value.prefill.empty()) json["prefill"] = value.prefill;
  if (!value.decode.empty()) json["decode"] = value.decode;
  return json;
}

ordered_json write_value(const PhaseTargets& value) {
  ordered_json json;  // null
  if (value.prefill) json["prefill"] = *value.prefill;
  if (value.decode) json["decode"] = *value.decode;
  return json;
}

ordered_json write_value(const ThresholdCalibration& value) { return to_json(value); }

}  // namespace modelopt::config
