#include <modelopt/eval/windows.h>

#include <modelopt/error.h>

namespace modelopt::eval {

std::vector<std::span<const std::int64_t>> cut_windows(const std::vector<std::vector<std::int64_t>>& rows,
                                                       std::int64_t length, std::int64_t limit) {
  MODELOPT_CHECK(length >= 2, InvalidArgument, "window length is ", length, ", expected at least 2 tokens");
  MODELOPT_CHECK(limit >= 0, InvalidArgument, "number of windows is ", limit, ", expected at least 0");
  const auto step = static_cast<std::size_t>(length);
  std::vector<std::span<const std::int64_t>> windows;
  for (const auto& row : rows) {
    for (std::size_t start = 0; row.size() - start >= step; start += step) {
      if (limit > 0 && windows.size() == static_cast<std::size_t>(limit)) return windows;
      windows.emplace_back(row.data() + start, step);
    }
  }
  return windows;
}

}  // namespace modelopt::eval
