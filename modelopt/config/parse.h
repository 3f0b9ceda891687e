// JSON to the typed configuration and back. All validation of a configuration happens here, once.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <modelopt/config/sparse_config.h>

namespace modelopt::config {

/// Reads and validates a configuration: `{"sparse_cfg": {"*attn*": {"method": …, …}, "default": {"enable": false}}}`.
///
/// `origin` (a file or preset name) begins each message. `overrides` are applied first, see overrides.h.
/// Throws ConfigError that reports all problems of the text together, one per line:
/// `ORIGIN: JSON.PATH: VALUE, expected EXPECTATION`.
[[nodiscard]] SparseAttentionConfig parse_config(std::string_view json, std::string_view origin,
                                                 const std::vector<std::string>& overrides = {});

/// parse_config of a file. An unreadable one is a ConfigError too.
[[nodiscard]] SparseAttentionConfig load_config_file(const std::filesystem::path& path,
                                                     const std::vector<std::string>& overrides = {});

/// `name_or_file` is the name of a preset (presets.h), otherwise a file. Throws ConfigError, with the presets' names if
/// it is neither.
[[nodiscard]] SparseAttentionConfig load_config(const std::string& name_or_file,
                                                const std::vector<std::string>& overrides = {});

/// The canonical JSON form: every field written out, under its own name. parse_config of it gives an equal
/// configuration.
[[nodiscard]] nlohmann::ordered_json to_json(const SparseAttentionConfig& config);

/// One rule's method as JSON: {"method": NAME, PARAMETERS…, "backend": …}.
[[nodiscard]] nlohmann::ordered_json to_json(const MethodConfig& method);

}  // namespace modelopt::config
