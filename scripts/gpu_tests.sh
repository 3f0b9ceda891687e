#!/usr/bin/env bash
# The tests that need a GPU, and the benchmark. All parts need a Hopper GPU; each prints a summary, within 8 minutes after the build:
#   scripts/gpu_tests.sh correctness   the C++ tests, HuggingFace models where transformers is, and the stress test
#   scripts/gpu_tests.sh sanitizer     compute-sanitizer's memcheck, synccheck and initcheck over a small subset
#   scripts/gpu_tests.sh bench         the kernels beside PyTorch's own, alternating
# Options: --build DIR      builds for 90a there first (default build/gpu; needs nvcc and LibTorch)
#          --prebuilt DIR   runs a build directory made elsewhere as it is
# LibTorch_ROOT names LibTorch; without it, it is that of the python3 that can import torch.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly TAGS=(attention semantics shapes shapes-wide shapes-long selection layout scores decode graphs first-capture streams errors backward skip calibrate)
readonly LIMIT=450 # seconds for all of a part
fail() { printf '[gpu] error: %s\n' "$*" >&2; exit 1; }

part=${1:-}
[[ $part == correctness || $part == sanitizer || $part == bench ]] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
shift
build=build/gpu prebuilt=
while [[ $# -gt 0 ]]; do
  [[ $# -ge 2 ]] || fail "$1 needs a folder"
  case $1 in
    --build) build=$2 ;;
    --prebuilt) build=$2 prebuilt=yes ;;
    *) fail "unknown option $1" ;;
  esac
  shift 2
done

command -v nvidia-smi >/dev/null || fail "nvidia-smi is not on PATH: these tests need a GPU"
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1)
[[ $capability == 9.0 ]] || fail "the GPU has compute capability $capability, expected 9.0: the tests compare both CUDA backends, and sm90 needs a Hopper GPU"
gpus=$(nvidia-smi --list-gpus | wc -l)
device=$(nvidia-smi --query-gpu=name,driver_version,clocks.max.sm --format=csv,noheader | head -n 1)

# --- the programs -------------------------------------------------------------------------------------------------
if [[ -z ${LibTorch_ROOT:-} ]]; then
  LibTorch_ROOT=$(python3 -c 'import importlib.util as u; s = u.find_spec("torch"); print(s.submodule_search_locations[0] if s else "")')
  [[ -n $LibTorch_ROOT ]] || fail "no LibTorch: set LibTorch_ROOT to the folder with its include/ and lib/"
fi
if [[ -z $prebuilt ]]; then
  cmake --preset release -B "$build" -DMODELOPT_CUDA=ON -DMODELOPT_CUDA_ARCHS=90a "-DLibTorch_ROOT=$LibTorch_ROOT" >/dev/null
  cmake --build "$build" --target modelopt_kernels modelopt_cli test_kernels_cuda test_attention_cuda \
    test_attention_cuda_stress test_ordered_pairs_cuda test_models_cuda test_cli_cuda test_bench_cuda
fi
tests=$build/tests/kernels/cuda
[[ -x $tests/test_attention_cuda ]] || fail "$tests/test_attention_cuda is not there: is $build a build with CUDA and tests?"
# a build of another machine names other places
libraries=$build/lib:$LibTorch_ROOT/lib
for folder in "$LibTorch_ROOT"/../nvidia/*/lib; do [[ -d $folder ]] && libraries+=:$folder; done
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

# --- running and reporting ------------------------------------------------------------------------------------------
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
names=()
absent=() # what this machine cannot run
started=$SECONDS

# launch NAME COMMAND...: in the background; its output, exit code and seconds go to files
launch() {
  local name=$1 begin=$SECONDS
  shift
  names+=("$name")
  (
    code=0
    left=$((LIMIT - (SECONDS - started)))
    timeout --kill-after=10 "$((left > 0 ? left : 1))" "$@" >"$logs/$name" 2>&1 || code=$?
    printf '%s %s\n' "$code" "$((SECONDS - begin))" >"$logs/$name.result"
  ) &
}

# The last line in which a program sums itself up.
outcome() { grep -E 'All tests passed|test cases:|assertions:|ERROR SUMMARY|No test|^Ran |^OK$|^FAILED' "$1" | tail -n 1 | sed 's/^=* *//'; }

summary() {
  local failed=0 name code seconds
  printf '\n%s: %s\n' "$part" "$device"
  for name in "${names[@]}"; do
    read -r code seconds <"$logs/$name.result"
    printf '  %-34s %-6s %4s s  %s\n' "$name" "$([[ $code == 0 ]] && echo ok || echo FAILED)" "$seconds" "$(outcome "$logs/$name")"
    [[ $code == 0 ]] || failed=$((failed + 1))
  done
  ((${#absent[@]} == 0)) || printf '  not run: %s\n' "${absent[@]}"
  printf '%s of %s passed in %s s\n' "$((${#names[@]} - failed))" "${#names[@]}" "$((SECONDS - started))"
  for name in "${names[@]}"; do
    read -r code seconds <"$logs/$name.result"
    [[ $code == 0 ]] || { printf '\n=== %s (exit code %s)\n' "$name" "$code"; head -c 6000 "$logs/$name"; }
  done
  [[ $failed == 0 ]]
}

case $part in
  correctness)
    export OMP_NUM_THREADS=4 OMP_WAIT_POLICY=passive # programs run side by side
    launch decisions "$tests/test_kernels_cuda"
    launch ordered-pairs "$tests/test_ordered_pairs_cuda"
    for tag in "${TAGS[@]}"; do launch "$tag" "$tests/test_attention_cuda" "[$tag]"; done
    if ((gpus >= 2)); then launch gpus "$tests/test_attention_cuda" "[gpus]"; else absent+=("gpus: needs two GPUs"); fi
    if python3 -c 'import torch, transformers' 2>/dev/null; then
      launch huggingface env "MODELOPT_KERNELS=$build/lib/libmodelopt_kernels.so" MODELOPT_TEST_DEVICE=cuda \
        python3 tests/python/test_hf_attention.py
    else
      absent+=("huggingface: python3 cannot import torch and transformers")
    fi
    launch models "$build/tests/modelopt/models/test_models_cuda"
    launch program "$build/tests/examples/test_cli_cuda"
    launch bench-command "$build/tests/modelopt/bench/test_bench_cuda"
    wait
    launch stress "$tests/test_attention_cuda_stress"
    wait
    ;;
  sanitizer)
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null) ||
      fail "compute-sanitizer is not on PATH"
    # Every tensor an allocation of its own: the caching allocator would hide accesses beyond it.
    export PYTORCH_NO_CUDA_MEMORY_CACHING=1
    for tool in memcheck synccheck initcheck; do
      # racecheck is left out: it does not follow the asynchronous copies and barriers that the kernels synchronise by.
      launch "$tool" "$sanitizer" --tool "$tool" --error-exitcode 1 --print-limit 20 "$tests/test_attention_cuda" "[sanitizer]"
    done
    wait
    ;;
  bench)
    launch bench python3 tests/bench/attention/bench_attention_cuda.py --library "$build/lib/libmodelopt_kernels.so"
    wait
    cat "$logs/bench"
    ;;
esac
summary
