// CUDA runtime results as our error type.
#pragma once

#include <cuda_runtime_api.h>

#include <modelopt/error.h>

/// Throws modelopt::Error with what was asked, unless the CUDA runtime call succeeded.
#define MODELOPT_CUDA_CHECK(call, ...)                                                                                \
  do {                                                                                                                \
    if (const cudaError_t modelopt_error = (call); modelopt_error != cudaSuccess) {                                   \
      throw ::modelopt::Error(::modelopt::str("CUDA: ", cudaGetErrorString(modelopt_error), " (", __VA_ARGS__, ")")); \
    }                                                                                                                 \
  } while (false)
