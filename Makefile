# Two commands from nothing, on a machine with Python, g++ and no GPU:
#   make demo    the whole path on a drawn street: train, export, stream; results in demo_out/
#   make test    every test
# and for contributors:
#   make check   format, lint, types (C++ too); make aarch64: the CPU kernel for Jetson, run under qemu-user

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NATIVE := $(shell find cpp_plugins -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cmake' -o -name CMakeLists.txt)
FORMATTED := $(filter %.cpp %.h %.cu,$(NATIVE)) $(wildcard tests/*/*.cpp)
PYTHON_DIRS := fcn_edge export benchmarks tests
TYPED := build/typed
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: demo test check format aarch64 clean

demo: $(STAMP)
	$(BIN)/fcn-edge demo --out demo_out --force

test: $(STAMP)
	$(BIN)/python -m pytest -q

check: $(STAMP)
	$(BIN)/ruff format --check $(PYTHON_DIRS)
	$(BIN)/ruff check $(PYTHON_DIRS)
	rm -rf $(TYPED) && mkdir -p $(TYPED)/fcn_edge
	ln -s $(addprefix $(CURDIR)/,$(wildcard fcn_edge/*) export benchmarks) $(TYPED)/fcn_edge/
	MYPYPATH=$(TYPED) $(BIN)/mypy -p fcn_edge
	$(BIN)/clang-format --dry-run --Werror $(FORMATTED)

format: $(STAMP)
	$(BIN)/ruff format $(PYTHON_DIRS)
	$(BIN)/ruff check --fix $(PYTHON_DIRS)
	$(BIN)/clang-format -i $(FORMATTED)

aarch64:
	$(MAKE) -f cpp_plugins/aarch64.mk

# The native module is compiled while the package is installed; it is installed again when its sources change.
$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf build $(VENV) demo_out
