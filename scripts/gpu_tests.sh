#!/usr/bin/env bash
# Runs the tests that need a GPU (CTest label gpu) and prints a summary. For a machine with a GPU, a CUDA compiler and LibTorch.
#   scripts/gpu_tests.sh [BUILD_DIR]     configures and builds there first; LibTorch_ROOT names LibTorch if it is not found
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build/gpu}

nvidia-smi --query-gpu=name,driver_version,clocks.max.sm --format=csv,noheader
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
[[ $capability == 90 ]] && capability=90a
cmake --preset release -B "$build" -DMODELOPT_CUDA=ON "-DMODELOPT_CUDA_ARCHS=$capability" \
  ${LibTorch_ROOT:+"-DLibTorch_ROOT=$LibTorch_ROOT"} >/dev/null
cmake --build "$build" --target test_kernels_cuda
ctest --test-dir "$build" --label-regex gpu --output-on-failure --no-tests=error
