// The descriptors of the methods, each with its fields.
#pragma once

#include <modelopt/config/method_descriptor.h>

namespace modelopt::config {

[[nodiscard]] MethodDescriptor sparse_softmax_descriptor();
[[nodiscard]] MethodDescriptor skip_softmax_descriptor();
[[nodiscard]] MethodDescriptor flash_skip_softmax_descriptor();

}  // namespace modelopt::config
