# The two commands of the README, and the steps they are made of. Everything here may be run again at any time.
#
#   make demo    sparsify a real language model and compare its output before and after
#   make test    run all tests
#   make model   fetch and convert SmolLM2-135M-Instruct into models/
#   make build   configure and build        make clean   remove the build
#
# Variables: PRESET=release|dev|asan, MODELOPT_LIBTORCH=<folder with include/ and lib/>, MODELOPT_PYTHON=<python with torch and transformers>,
# MODELOPT_CUDA=AUTO|ON|OFF, MODELOPT_CUDA_ARCHS='80;90a;120', JOBS=<parallel compilations>.
PRESET ?= release
BUILD := build/$(PRESET)
MODEL := models/SmolLM2-135M-Instruct
MODELOPT_CUDA ?= $(if $(filter asan,$(PRESET)),OFF,AUTO)
MODELOPT_CUDA_ARCHS ?= 80;90a;120
JOBS ?= $(shell nproc)
LIBTORCH = $(shell scripts/setup.sh libtorch-path)

.DEFAULT_GOAL := help
.PHONY: help demo test model build setup clean

help:
	@sed -n '1,10s/^# \{0,1\}//p' Makefile

setup:
	@scripts/setup.sh packages
	@scripts/setup.sh libtorch

# Re-run by ninja itself when a CMake file changes; here only for a first configuration or another LibTorch.
build: setup
	@if ! grep -qsx 'LibTorch_ROOT:[A-Z]*=$(LIBTORCH)' $(BUILD)/CMakeCache.txt || [ ! -e $(BUILD)/build.ninja ]; then \
	  echo '[build] configuring $(BUILD)' >&2; \
	  cmake --preset $(PRESET) -DLibTorch_ROOT=$(LIBTORCH) -DMODELOPT_CUDA=$(MODELOPT_CUDA) '-DMODELOPT_CUDA_ARCHS=$(MODELOPT_CUDA_ARCHS)' $(if $(MODELOPT_PYTHON),-DMODELOPT_PYTHON=$(MODELOPT_PYTHON)) >&2; fi
	@echo '[build] building with $(JOBS) jobs' >&2
	@cmake --build $(BUILD) --parallel $(JOBS) >&2

model: setup
	@scripts/setup.sh model

demo: build model
	@scripts/demo.sh $(BUILD) $(MODEL)

test: build model
	@scripts/setup.sh python
	@echo '[test] running all tests but those that need a GPU' >&2
	@# tests run side by side: a thread that waits must not spin on the core that another test needs
	@OMP_WAIT_POLICY=passive ctest --test-dir $(BUILD) --label-exclude gpu --output-on-failure --parallel $(JOBS)

clean:
	rm -rf build
