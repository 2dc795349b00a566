# Thin over CMake; every target can be called on a fresh checkout.
MAKEFLAGS += --no-print-directory
PREFIX ?= /usr/local
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PYTHON := $(if $(wildcard /usr/bin/python3),/usr/bin/python3,python3)

.PHONY: all build deps deps-build deps-test deps-lint demo test test-all test-arm64 soak interop bench bench-full lint format install uninstall clean help

all: build

help:
	@echo 'make demo        build, generate and run the quickstart'
	@echo 'make test        everything a user wants to see pass'
	@echo 'make test-all    and other compilers, sanitizers, valgrind, Python versions'
	@echo 'make soak        the long forms of tests, a quarter of an hour'
	@echo 'make test-arm64  builds for aarch64 and runs the unit tests under qemu'
	@echo 'make interop     with programs of others, as far as they can be had'
	@echo 'make bench       figures of this machine, in two minutes; make bench-full: more of them'
	@echo 'make install PREFIX=/usr/local, make uninstall'
	@echo 'make lint, make format, make deps, make clean'

# All Debian packages that any target needs; the targets below install what they need themselves.
deps:
	@tools/deps.sh all
deps-build:
	@tools/deps.sh build
deps-test: deps-build
	@tools/deps.sh test
deps-lint:
	@tools/deps.sh lint

# A target of CMake in build/; $(1): name, $(2): variables of the first configuration.
configure = cmake --preset release $(1) --log-level=WARNING >/dev/null

build: deps-build
	@$(call configure,-DPYPROC_TESTS=OFF)
	@cmake --build build -j $(JOBS)

demo: deps-build
	@$(call configure,-DPYPROC_TESTS=OFF)
	@cmake --build build -j $(JOBS) --target quickstart
	@cd build/examples/quickstart && PYPROC_PYTHON=$(PYTHON) ./quickstart

test: deps-test
	@$(call configure,-DPYPROC_TESTS=ON)
	@cmake --build build -j $(JOBS)
	@$(PYTHON) tests/run.py build

# QUICK=yes leaves out of a row what others have.
test-all: deps-test
	@tools/deps.sh all
	@$(PYTHON) tests/run_all.py $(if $(QUICK),--quick)

# ROWS="storm calls" chooses; tests/soak.py has them.
soak: deps-test
	@$(call configure,-DPYPROC_TESTS=ON)
	@cmake --build build -j $(JOBS)
	@$(PYTHON) tests/soak.py build $(ROWS)

test-arm64:
	@tools/arm64.sh

# PYPROC_GO_SRC names a checkout of the Go library pyproc.
interop:
	@tools/deps.sh interop
	@$(call configure,-DPYPROC_TESTS=ON)
	@cmake --build build -j $(JOBS) --target interop
	@PYPROC_PYTHON=$(PYTHON) $(PYTHON) tests/interop/run.py build

# The same PYPROC_GO_SRC: its pool is measured, too.
bench-full: BENCH_ARGUMENTS = --full
bench-full: bench

bench:
	@tools/deps.sh bench
	@$(call configure,-DPYPROC_TESTS=OFF -DPYPROC_BENCH=ON)
	@cmake --build build -j $(JOBS) --target bench
	@$(PYTHON) bench/peers/original/build.py build/bench
	@PYPROC_PYTHON=$(PYTHON) build/bin/pyproc-bench $(BENCH_ARGUMENTS)
	@$(PYTHON) bench/plot.py build/bench

lint: deps-lint
	@$(PYTHON) tools/lint.py

format: deps-lint
	@$(PYTHON) tools/lint.py --format

install: deps-build
	@$(call configure,-DCMAKE_INSTALL_PREFIX=$(abspath $(PREFIX)) -DPYPROC_TESTS=OFF)
	@cmake --build build -j $(JOBS) --target pyproc pyproc_static pyproc_worker
	@cmake --install build

uninstall:
	@cmake -P build/uninstall.cmake

clean:
	@rm -rf build build-*/
