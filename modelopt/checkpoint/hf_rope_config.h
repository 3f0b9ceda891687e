// The rotary embedding's part of config.json.
#pragma once

#include <modelopt/models/model_config.h>

#include <cstdint>

#include <modelopt/checkpoint/json_object.h>

namespace modelopt::checkpoint {

/// Reads `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (transformers 4), from the root of
/// config.json. Throws DataError for an unknown type, for parameters that the type does not have, and for both forms at
/// once.
[[nodiscard]] models::RopeConfig read_rope_config(JsonObject& root, std::int64_t max_position_embeddings,
                                                  std::int64_t head_dim);

}  // namespace modelopt::checkpoint
