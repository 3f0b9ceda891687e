#!/usr/bin/env bash
# The demo: SmolLM2 with 2:4 sparse softmax beside the dense model, on a long prompt of real text.
#   scripts/demo.sh BUILD_DIR MODEL_DIR
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1 model=$2

printf '[demo] sparsifying %s with SPARSE_SOFTMAX_DEFAULT on a prompt of about 2000 tokens\n' "$model" >&2
exec "$build/bin/modelopt" sparsify --model "$model" --config SPARSE_SOFTMAX_DEFAULT \
  --prompt-file examples/prompts/opticks.txt --max-new-tokens 48
