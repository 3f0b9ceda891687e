// The "post_processor" of a tokenizer.json, as far as it concerns ids: what is added before and behind them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <modelopt/checkpoint/tokenizer/json_node.h>

namespace modelopt::checkpoint::tokenizer {

struct PostProcessor {
  std::vector<std::int64_t> prefix;
  std::vector<std::int64_t> suffix;
};

/// Reads TemplateProcessing (its "single" template), ByteLevel (about offsets only), or a Sequence with at most one
/// template. Throws DataError for any other, and for an id that `is_known` denies.
[[nodiscard]] PostProcessor read_post_processor(const JsonNode& node,
                                                const std::function<bool(std::int64_t)>& is_known);

}  // namespace modelopt::checkpoint::tokenizer
