// Writing a file in the safetensors format.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

namespace modelopt::checkpoint {

/// Writes the tensors, from any device and of any strides, as one file that appears whole or not at all. The file is
/// composed in memory first. Data begins at a multiple of 8 bytes; larger dtypes come first, so that every tensor is
/// aligned. Throws DataError if a dtype has no name in the format or the file cannot be written.
void write_safetensors(const std::filesystem::path& path, const std::map<std::string, at::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace modelopt::checkpoint
