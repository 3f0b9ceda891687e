// The weights of a HuggingFace model directory: one safetensors file, or the shards that an index names.
#pragma once

#include <modelopt/checkpoint/safetensors_file.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace modelopt::checkpoint {

/// `model.safetensors`, or the files of `model.safetensors.index.json`, opened and checked against each other.
class Checkpoint {
 public:
  /// Throws DataError if the directory holds neither or both, if a file breaks a rule of its format, if a path or
  /// symlink leaves the directory, or if the index and its shards do not name the same tensors, each once.
  explicit Checkpoint(const std::filesystem::path& directory);

  /// Names of all tensors, sorted.
  [[nodiscard]] std::vector<std::string> names() const;
  [[nodiscard]] bool contains(std::string_view name) const;
  /// Throws DataError for a name that is not there.
  [[nodiscard]] const TensorInfo& info(std::string_view name) const;
  /// See SafetensorsFile::tensor.
  [[nodiscard]] at::Tensor tensor(std::string_view name) const;
  /// Bytes of all tensors together.
  [[nodiscard]] std::uint64_t total_bytes() const;
  /// The files that make up the checkpoint, the index first if there is one: plain names in the directory.
  [[nodiscard]] const std::vector<std::string>& file_names() const { return file_names_; }

 private:
  void add_shard(std::string file_name, SafetensorsFile file);
  [[nodiscard]] const SafetensorsFile& shard(std::string_view name) const;

  std::filesystem::path directory_;
  std::vector<std::string> file_names_;
  std::vector<SafetensorsFile> shards_;
  std::map<std::string, std::size_t, std::less<>> shard_of_;
};

}  // namespace modelopt::checkpoint
