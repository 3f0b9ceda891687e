#include <modelopt/checkpoint/model_directory.h>

#include <algorithm>

#include <modelopt/error.h>

namespace modelopt::checkpoint {
namespace {

namespace fs = std::filesystem;

bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

bool is_within(const fs::path& path, const fs::path& directory) {
  return std::mismatch(directory.begin(), directory.end(), path.begin(), path.end()).first == directory.end();
}

}  // namespace

std::optional<fs::path> find_model_file(const fs::path& directory, std::string_view name) {
  std::error_code failure;
  const fs::path root = fs::canonical(directory, failure);
  MODELOPT_CHECK(!failure, DataError, directory.string(), ": cannot open the model directory: ", failure.message());
  MODELOPT_CHECK(fs::is_directory(root, failure), DataError, directory.string(),
                 ": not a directory, expected a model directory");
  MODELOPT_CHECK(is_plain_file_name(name), DataError, directory.string(), ": the file name \"", name,
                 "\" is not plain, expected a file in the model directory");
  const fs::path entry = root / name;
  const fs::file_status status = fs::symlink_status(entry, failure);
  if (!fs::exists(status)) return std::nullopt;
  const fs::path target = fs::canonical(entry, failure);
  MODELOPT_CHECK(!failure, DataError, (directory / name).string(), ": cannot be followed: ", failure.message());
  MODELOPT_CHECK(is_within(target, root), DataError, (directory / name).string(), ": is a symlink to ",
                 fs::read_symlink(entry, failure).string(),
                 ", outside of the model directory; expected a real file (copy the directory with cp -rL)");
  MODELOPT_CHECK(fs::is_regular_file(target, failure), DataError, (directory / name).string(), ": not a regular file");
  return target;
}

fs::path model_file(const fs::path& directory, std::string_view name) {
  const auto found = find_model_file(directory, name);
  MODELOPT_CHECK(found.has_value(), DataError, (directory / name).string(), ": there is no such file");
  return *found;
}

}  // namespace modelopt::checkpoint
