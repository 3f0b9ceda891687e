// One file in the safetensors format (https://github.com/huggingface/safetensors, "Format"), mapped into memory.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace modelopt::checkpoint {

/// One entry of the header.
struct TensorInfo {
  std::string dtype;                          ///< the format's name: "F32", "BF16", …
  std::optional<at::ScalarType> scalar_type;  ///< absent for a dtype of the format that cannot be loaded (F8_*, F4, …)
  std::vector<std::int64_t> shape;            ///< empty: a scalar; may contain 0
  std::uint64_t begin = 0;                    ///< bytes from the start of the data section
  std::uint64_t end = 0;

  [[nodiscard]] std::uint64_t nbytes() const { return end - begin; }
};

/// Everything the format demands is checked on opening, nothing of the data is read then.
class SafetensorsFile {
 public:
  /// Throws DataError that names the file, the tensor, the value and what was expected.
  explicit SafetensorsFile(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  /// By name, sorted; the order in the file means nothing.
  [[nodiscard]] const std::map<std::string, TensorInfo, std::less<>>& tensors() const { return tensors_; }
  /// `__metadata__` of the header.
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// The tensor on the CPU, contiguous, in the file's dtype. It shares the mapped memory and keeps the mapping alive
  /// (data that is not aligned to its dtype is copied). The mapping is private: writing to the tensor never changes the
  /// file. Throws DataError for a name that is not there or a dtype that cannot be loaded.
  [[nodiscard]] at::Tensor tensor(std::string_view name) const;

 private:
  class Mapping;

  std::filesystem::path path_;
  std::shared_ptr<const Mapping> mapping_;
  std::uint64_t data_start_ = 0;  // of the data section in the file
  std::map<std::string, TensorInfo, std::less<>> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace modelopt::checkpoint
