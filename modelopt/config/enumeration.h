// Lists in messages.
#pragma once

#include <cstddef>
#include <string>

#include <modelopt/error.h>

namespace modelopt::config {

/// "a", "a or b", "a, b or c".
template <typename Items>
[[nodiscard]] std::string one_of(const Items& items) {
  std::string list;
  std::size_t i = 0;
  for (const auto& item : items) {
    list += str(i == 0 ? "" : i + 1 == items.size() ? " or " : ", ", item);
    ++i;
  }
  return list;
}

}  // namespace modelopt::config
