// From a HuggingFace directory to a model that can run.
#pragma once

#include <modelopt/models/model_config.h>

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

namespace modelopt::models {
class CausalLM;
}

namespace modelopt::checkpoint {

struct LoadOptions {
  /// float32, float16 or bfloat16. Absent: the dtype that all weights of the file have, or, if they differ, that of
  /// config.json; on a GPU bfloat16 where that is float32.
  std::optional<at::ScalarType> dtype;
  at::Device device = at::kCPU;
  /// Called after each tensor with the bytes of the file dealt with so far and in total.
  std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)> progress;
};

struct LoadedModel {
  std::shared_ptr<models::CausalLM> model;  ///< in evaluation mode
  models::ModelConfig config;               ///< dtype: the one that was loaded
};

/// Reads config.json and the weights. On the CPU in the file's own dtype the parameters are the mapped memory of the
/// file (private: writing to them never changes the file); to a GPU weights go from there without a copy of their own
/// on the host. Throws Unsupported for a device that is not there or has too little memory, DataError if the directory
/// is invalid, if a tensor is missing, unexpected or of the wrong shape (all are named), or if a tied `lm_head.weight`
/// is present and differs from the embedding.
[[nodiscard]] LoadedModel load_model(const std::filesystem::path& directory, const LoadOptions& options = {});

}  // namespace modelopt::checkpoint
