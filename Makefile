# Two commands do everything on a fresh machine with Python 3.10+ and a C++ compiler: make demo, make test.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint bench sanitize test-neon clean

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

bench: setup  ## time the kernels
	$(BIN)/python benchmarks/kernels.py

sanitize:  ## the native tests under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer
	tests/native/sanitize.sh

test-neon:  ## the kernels for 64-bit ARM, in an emulator
	tests/native/neon.sh

clean:
	rm -rf .venv build
