// Files of a model directory, by plain name, that never lead outside it.
#pragma once

#include <filesystem>
#include <optional>
#include <string_view>

namespace modelopt::checkpoint {

/// The canonical path of the file `name` of `directory`, or nothing if there is no such entry.
/// Throws DataError if the directory is none, if `name` is not a plain file name, if the entry is not a regular file,
/// or if it is a symlink that leads outside the directory.
[[nodiscard]] std::optional<std::filesystem::path> find_model_file(const std::filesystem::path& directory,
                                                                   std::string_view name);

/// As above; a missing file is a DataError too.
[[nodiscard]] std::filesystem::path model_file(const std::filesystem::path& directory, std::string_view name);

}  // namespace modelopt::checkpoint
