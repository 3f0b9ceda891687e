// The dtypes of the safetensors format.
#pragma once

#include <c10/core/ScalarType.h>

#include <optional>
#include <string_view>

namespace modelopt::checkpoint {

struct SafetensorsDtype {
  std::string_view name;
  int bits;                                   ///< per element
  std::optional<at::ScalarType> scalar_type;  ///< absent: known to the format, but not read or written here
};

/// Null for a name that the format does not know.
[[nodiscard]] const SafetensorsDtype* find_safetensors_dtype(std::string_view name);
/// Null for a type that has no name in the format, or none that is written here.
[[nodiscard]] const SafetensorsDtype* find_safetensors_dtype(at::ScalarType type);

}  // namespace modelopt::checkpoint
