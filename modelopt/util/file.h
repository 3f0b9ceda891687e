// Reading whole files, and writing them so that a reader sees the old content or the new one, never a part.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace modelopt {

/// The whole file as bytes. Throws DataError with the path and the system's reason.
[[nodiscard]] std::string read_file(const std::filesystem::path& path);

/// Where symbolic links lead, also if nothing is there yet; `path` itself if it is none. Throws DataError.
[[nodiscard]] std::filesystem::path link_target(std::filesystem::path path);

/// Whether it is there and neither a file nor a directory: a terminal, a pipe, /dev/null.
[[nodiscard]] bool is_device(const std::filesystem::path& path);

/// Writes to a temporary name beside `path`, syncs, then renames over it. Throws DataError; nothing is left behind
/// then. Of a symbolic link the file that it leads to is replaced; a device is written to as it is.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

/// A directory that comes into being whole: fill path(), then commit() syncs its files and renames it to the target.
/// Without commit() the destructor removes it.
class AtomicDirectory {
 public:
  /// Throws DataError if the target exists and `overwrite` is false, or if no temporary directory can be made beside
  /// it.
  AtomicDirectory(std::filesystem::path target, bool overwrite);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return temporary_; }
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  bool overwrite_ = false;
  bool committed_ = false;
};

}  // namespace modelopt
