# Two commands do everything on a fresh machine with Python 3.10+ and a C++ compiler: make demo, make test.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint fuzz bench test-neon sanitize clean

setup: .venv/installed

# Built again when the native code or the list of dependencies changes; Python files are used where they stand.
.venv/installed: pyproject.toml CMakeLists.txt $(wildcard native/*)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: setup  ## train one minute on Python's own standard library, then write
	$(BIN)/polychron train

test: setup  ## all tests
	$(BIN)/python -m pytest --quiet

lint: setup  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The extension once more with AddressSanitizer, found before the editable installation.
CASES ?= 1000000
SANITIZED := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
RUN_SANITIZED := import runpy, sys; \
  sys.meta_path[:] = [finder for finder in sys.meta_path if "ScikitBuild" not in type(finder).__name__]; \
  sys.path.insert(0, "build/sanitized"); runpy.run_module("tests.runtime.fuzz", run_name="__main__", alter_sys=True)

fuzz: setup  ## CASES damaged and hostile model files for the runtime, and as many files of tables for the C reader
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps --target build/sanitized . \
	  -Cbuild-dir=build/sanitized-cmake -Ccmake.define.CMAKE_CXX_FLAGS="$(SANITIZED)"
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
	  $(BIN)/python -c '$(RUN_SANITIZED)' --cases $(CASES)
	$(BIN)/python -m tests.export.fuzz_tables --cases $(CASES)

bench: setup  ## time the kernels
	$(BIN)/python benchmarks/kernels.py

sanitize:  ## the native tests under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer
	tests/native/sanitize.sh

sanitize-python: setup  ## the tests of the Python border on an extension with AddressSanitizer and UndefinedBehaviorSanitizer
	tests/native/sanitize_python.sh

test-neon:  ## the kernels for 64-bit ARM, in an emulator
	tests/native/neon.sh

clean:
	rm -rf .venv build
