// From a call to the backend that runs it. What cannot run is an error that says why; nothing is substituted.
#pragma once

#include <modelopt/kernels/attention.h>

#include <string>
#include <string_view>

#include "kernels/backend.h"

namespace modelopt::kernels {

/// Throws InvalidArgument, listing the names, unless there is a backend of this name ("auto" is not one).
void validate_backend_name(std::string_view name);

/// The backend that `requested` ("auto" or a name) resolves to. Throws Unsupported or InvalidArgument.
[[nodiscard]] const Backend& select_backend(const AttentionTraits& traits, std::string_view requested);

/// The same for attention_calibrate.
[[nodiscard]] const Backend& select_calibrate_backend(const AttentionTraits& traits, std::string_view requested);

/// The backend that runs a call, if any does: the one that is named, or the first that can run such problems; nullptr
/// if there is none. Of a named one the lengths, which decide what its kernels take, need not be known.
[[nodiscard]] const Backend* find_backend(const AttentionTraits& traits, std::string_view requested);

/// What a call asks of a backend.
[[nodiscard]] AttentionTraits traits_of(const AttentionArgs& args, bool want_mask);
[[nodiscard]] bool uses_skip_softmax(const AttentionArgs& args);
/// For messages: "cpu tensors of Float with head_dim 64, N:M sparse".
[[nodiscard]] std::string describe(const AttentionTraits& traits);

/// For messages about one call: "attention of q [20, 4, 64] and k [20, 2, 64] on cuda:0".
[[nodiscard]] std::string describe_call(const AttentionArgs& args);

/// The problem of a validated call, with results still undefined.
[[nodiscard]] AttentionProblem make_problem(const AttentionArgs& args);

/// Validates, selects a backend and runs it. The mask is computed and returned if asked for, otherwise undefined.
[[nodiscard]] AttentionMaskResult run_attention(const AttentionArgs& args, bool want_mask);

}  // namespace modelopt::kernels
