# Cross-compiles the CPU kernel for aarch64 (Jetson) and runs the golden tables under qemu-user; knows nothing about Python.
#
#     make -f cpp_plugins/aarch64.mk          (Debian: apt install g++-aarch64-linux-gnu qemu-user)

CMAKE ?= cmake
AARCH64_CXX ?= aarch64-linux-gnu-g++
AARCH64_SYSROOT ?= /usr/aarch64-linux-gnu
AARCH64_BUILD ?= build/aarch64
AARCH64_QEMU ?= qemu-aarch64

.PHONY: aarch64
aarch64:
	$(CMAKE) -S $(dir $(lastword $(MAKEFILE_LIST))) -B $(AARCH64_BUILD) -DFCN_EDGE_PYTHON=OFF -DFCN_EDGE_PLUGIN=OFF \
	  -DFCN_EDGE_TESTS=ON \
	  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=$(AARCH64_CXX) \
	  "-DCMAKE_CROSSCOMPILING_EMULATOR=$(AARCH64_QEMU);-L;$(AARCH64_SYSROOT)"
	$(CMAKE) --build $(AARCH64_BUILD)
	cd $(AARCH64_BUILD) && ctest --output-on-failure
