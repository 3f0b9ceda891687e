// The version of this build.
#pragma once

#include <string_view>

namespace modelopt {

/// Version of this build, e.g. "0.1.0".
[[nodiscard]] std::string_view version();

}  // namespace modelopt
