// A key of a configuration object, between its JSON and its typed form.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string_view>

#include <modelopt/config/value_domain.h>

namespace modelopt::config {

/// Owner is the typed object: MethodConfig, CalibrationConfig.
template <typename Owner>
struct Field {
  std::string_view name;
  std::string_view alias;  ///< other accepted name, or empty
  std::string_view title;
  std::string_view description;
  ValueDomain domain;
  std::string_view below;   ///< name of a field with choices that this integer must be less than, or empty
  std::string_view one_of;  ///< of the fields with the same text here, an object may have one; or empty
  bool nullable = false;    ///< null is accepted and means absent
  /// The value as JSON; null where the object has none.
  std::function<nlohmann::ordered_json(const Owner&)> get;
  /// Takes a value; false where its type does not fit, and then nothing has changed.
  std::function<bool(Owner&, const nlohmann::ordered_json&)> set;
};

}  // namespace modelopt::config
