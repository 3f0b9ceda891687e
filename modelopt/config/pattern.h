// Shell-style patterns over module names.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace modelopt::config {

/// Why the pattern is malformed (empty, a '[' that is never closed, a reversed range); nullopt if it is well formed.
[[nodiscard]] std::optional<std::string> pattern_problem(std::string_view pattern);

/// Whether the whole of `name` matches: `*` any characters (dots too), `?` one, `[abc]`, `[a-z]` one of a set, `[!abc]`
/// one that is not in it. Case-sensitive, byte by byte, no escape character: `[*]` is a literal star. The pattern must
/// be well formed. Takes time proportional to name × pattern at most.
[[nodiscard]] bool matches_pattern(std::string_view pattern, std::string_view name);

}  // namespace modelopt::config
