// The text that the program carries for prompts of any length.
#pragma once

#include <string>

namespace modelopt::cli {

/// Newton's Opticks (1730, in the public domain), about 100 000 words.
[[nodiscard]] std::string shipped_text();

}  // namespace modelopt::cli
