// Cutting token ids into windows of one context length.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace modelopt::eval {

/// Consecutive windows of `length` ids, counted from the start of each row. Rows are never joined, an incomplete last
/// window is left out. At most `limit` windows (0: all). They view `rows`. Throws InvalidArgument unless length >= 2 (a
/// window gives length − 1 predictions) and limit >= 0.
[[nodiscard]] std::vector<std::span<const std::int64_t>> cut_windows(const std::vector<std::vector<std::int64_t>>& rows,
                                                                     std::int64_t length, std::int64_t limit = 0);

}  // namespace modelopt::eval
