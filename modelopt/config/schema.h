// The JSON schema of configurations and the reference table in the documentation, both generated from the descriptors.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <string>

namespace modelopt::config {

/// JSON Schema (2020-12) of a configuration file. configs/schema.json is this, indented by 2, with a final newline.
[[nodiscard]] nlohmann::ordered_json configuration_schema();

/// The reference section of docs/configuration.md: one table of keys per object, in Markdown, ending in a newline.
[[nodiscard]] std::string configuration_reference_markdown();

}  // namespace modelopt::config
