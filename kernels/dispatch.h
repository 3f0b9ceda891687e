// From a call to the backend that runs it. What cannot run is an error that says why; nothing is substituted.
#pragma once

#include <modelopt/kernels/attention.h>

#include <string_view>

#include "kernels/backend.h"

namespace modelopt::kernels {

/// Throws InvalidArgument, listing the names, unless there is a backend of this name ("auto" is not one).
void validate_backend_name(std::string_view name);

/// The backend that `requested` ("auto" or a name) resolves to. Throws Unsupported or InvalidArgument.
[[nodiscard]] const Backend& select_backend(const AttentionTraits& traits, std::string_view requested);

/// Validates, selects a backend and runs it. The mask is computed and returned if asked for, otherwise undefined.
[[nodiscard]] AttentionMaskResult run_attention(const AttentionArgs& args, bool want_mask);

}  // namespace modelopt::kernels
