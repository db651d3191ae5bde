# make demo · make test · make lint · make ci · make bench · make clean
# Each target sets up .venv by itself; a second call takes no time. GNU make 3.81 (macOS) is enough.
# Options:  PYTHON=python3.12               another Python
#           ARGS="-k kernels"               words for the command itself: eftlite demo, pytest, eftlite bench
#           PIP_ARGS="--extra-index-url …"  words for pip, e.g. an index of prebuilt llama-cpp-python wheels
#           CMAKE_ARGS="-DGGML_CUDA=on"     how llama.cpp is compiled (read by llama-cpp-python)

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
ifeq ($(OS),Windows_NT)
  BIN := .venv/Scripts
else
  BIN := .venv/bin
endif
# Settings of another Python must not leak into ours.
unexport PYTHONHOME PYTHONPATH

.PHONY: help demo test lint ci bench clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,/^$$/s/^# //p' Makefile

demo: .venv/for-use
	@"$(BIN)/eftlite" demo $(ARGS)

test: .venv/for-test
	@"$(BIN)/python" -m pytest -n 2 --dist loadfile $(ARGS)

lint: .venv/for-lint
	@"$(BIN)/python" -m ruff check .
	@"$(BIN)/python" -m ruff format --check .
	@mkdir -p build/typing && ln -sfn ../../quantize build/typing/eftlite_quantize  # mypy knows packages by their folders
	@"$(BIN)/python" -m mypy

# Exactly what CI runs.
ci: lint test

bench: .venv/for-use
	@"$(BIN)/eftlite" bench $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The three stamps form a chain, so that `make -j` never runs two pips in one environment.
.venv/for-use: pyproject.toml
	@$(require_python)
	@$(has_llama) || $(require_compiler)
	@test -x "$(BIN)/python" || "$(PYTHON)" -m venv .venv
	@$(has_llama) || $(say_compiling)
	@$(avoid_amx); $(with_rpc); "$(BIN)/python" -m pip install $(PIP_OPTIONS) -e . || $(say_failed)
	@echo "Compiling eftlite's kernels and timing the bundled models on this machine, once."
	@"$(BIN)/eftlite" run --max-tokens 2 "Hello" >/dev/null
	@touch $@

.venv/for-test: .venv/for-use
	@"$(BIN)/python" -m pip install -q $(PIP_OPTIONS) -e ".[test]" || $(say_failed)
	@touch $@

.venv/for-lint: .venv/for-test
	@"$(BIN)/python" -m pip install -q $(PIP_OPTIONS) -e ".[test,lint]" || $(say_failed)
	@touch $@

PIP_OPTIONS = --disable-pip-version-check $(PIP_ARGS)

define require_python
command -v "$(PYTHON)" >/dev/null || { \
  echo "error: no $(PYTHON) here. Install Python 3.10 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }; \
"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
  echo "error: eftlite needs Python 3.10 or newer; $(PYTHON) is $$("$(PYTHON)" --version 2>&1)." >&2; \
  echo "Name another one: make PYTHON=python3.12" >&2; exit 1; }; \
"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
  echo "error: $(PYTHON) cannot make virtual environments: its venv or ensurepip module is missing." >&2; \
  echo "Debian, Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
endef

has_llama = "$(BIN)/python" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("llama_cpp"))' >/dev/null 2>&1

# PIP_ARGS may name an index of prebuilt wheels; on Windows the build finds Visual Studio outside the PATH.
define require_compiler
{ for compiler in $$CXX c++ g++ clang++; do if command -v "$$compiler" >/dev/null; then exit 0; fi; done; \
if test -n "$(PIP_ARGS)" || test "$$OS" = Windows_NT; then exit 0; fi; \
echo "error: no C++ compiler here, and llama-cpp-python has to be compiled." >&2; \
echo "  Debian, Ubuntu: sudo apt install build-essential" >&2; \
echo "  Fedora:         sudo dnf install gcc-c++" >&2; \
echo "  macOS:          xcode-select --install" >&2; \
echo "Or try prebuilt wheels, if there are any for this release and your machine:" >&2; \
echo "  make demo PIP_ARGS='--extra-index-url https://abetlen.github.io/llama-cpp-python/whl/cpu'" >&2; exit 1; }
endef

# GCC 11 and 12 miscompile llama.cpp's AMX code: it dies at the first quantized matrix product (eftlite/amx.py).
define avoid_amx
case "$$(uname -sm) $$(c++ -dumpversion 2>/dev/null | cut -d. -f1)" in "Linux x86_64 11"|"Linux x86_64 12") \
  amx="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"; export CFLAGS="$$CFLAGS $$amx" CXXFLAGS="$$CXXFLAGS $$amx";; esac
endef

# For workers on other machines. The user's words come last and win; a wheel that pip kept from before is used as it is.
define with_rpc
export CMAKE_ARGS="-DGGML_RPC=on $$CMAKE_ARGS"
endef

define say_compiling
{ echo "Setting up .venv. llama-cpp-python comes as source and is compiled now: about 5 minutes on two cores,"; \
echo "once. pip shows no progress meanwhile; it has not hung."; }
endef

define say_failed
{ echo "error: pip could not install eftlite; its own words stand above. See docs/troubleshooting.md" >&2; exit 1; }
endef
