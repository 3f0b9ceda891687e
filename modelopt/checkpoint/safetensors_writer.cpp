#include <modelopt/checkpoint/safetensors_writer.h>

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include <modelopt/checkpoint/safetensors_dtype.h>
#include <modelopt/error.h>
#include <modelopt/util/file.h>

namespace modelopt::checkpoint {

void write_safetensors(const std::filesystem::path& path, const std::map<std::string, at::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<std::pair<std::string, at::Tensor>> ordered(tensors.begin(), tensors.end());
  std::stable_sort(ordered.begin(), ordered.end(),
                   [](const auto& a, const auto& b) { return a.second.element_size() > b.second.element_size(); });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t end = 0;
  for (const auto& [name, tensor] : ordered) {
    const SafetensorsDtype* dtype = find_safetensors_dtype(tensor.scalar_type());
    MODELOPT_CHECK(dtype != nullptr, DataError, path.string(), ": tensor \"", name, "\" has dtype ",
                   tensor.scalar_type(), ", which safetensors has no name for");
    const std::uint64_t begin = std::exchange(end, end + tensor.nbytes());
    header[name] = {{"dtype", dtype->name}, {"shape", tensor.sizes().vec()}, {"data_offsets", {begin, end}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');

  std::string content;
  const std::uint64_t header_size = text.size();
  content.reserve(sizeof header_size + text.size() + end);
  content.append(reinterpret_cast<const char*>(&header_size), sizeof header_size);
  content += text;
  for (const auto& [name, tensor] : ordered) {
    const at::Tensor data = tensor.detach().cpu().contiguous();
    content.append(static_cast<const char*>(data.const_data_ptr()), data.nbytes());
  }
  write_file_atomically(path, content);
}

}  // namespace modelopt::checkpoint
