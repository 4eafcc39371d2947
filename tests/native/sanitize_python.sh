#!/bin/sh
# The Python tests of the kernels' border on an extension compiled with AddressSanitizer and
# UndefinedBehaviorSanitizer. Python and torch are not instrumented; threads have their own run in sanitize.sh.
#
# usage: tests/native/sanitize_python.sh [argument of pytest ...]      from the repository's root
set -eu
python=${PYTHON:-.venv/bin/python}
build=build/sanitize
site=$PWD/$build/site

# The extension goes to a folder of its own. Interpreter and paths are those of $python, but for the hook of an
# editable installation, which would come first: a folder in PYTHONPATH has no hooks.
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target "$site" \
  -Cbuild-dir="$build/extension" -Ccmake.define.POLYCHRON_SANITIZE=address,undefined -Cinstall.strip=false .
interpreter=$("$python" -c 'import sys; print(sys._base_executable)')
PYTHONPATH=$site:$("$python" -c 'import sys; print(":".join(path for path in sys.path if path))')
# The C++ library is loaded early as well: the sanitizer looks for its throw before any extension brings it.
LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so.6)"
# The interpreter keeps what it allocates, hence no search for leaks. A child that a test starts is one of these too.
ASAN_OPTIONS=detect_leaks=0
UBSAN_OPTIONS=print_stacktrace=1
export PYTHONPATH LD_PRELOAD ASAN_OPTIONS UBSAN_OPTIONS
"$interpreter" -c "
import polychron._native as native
assert native.__file__.startswith('$site'), native.__file__"
if [ $# -eq 0 ]; then
  set -- tests/ops/test_borders.py tests/ops/test_direct.py tests/ops/test_custom_ops.py tests/ops/test_row_updates.py \
    tests/nn/test_chain.py tests/test_kernels.py tests/runtime
fi
# Compiled with -O1, checked at every access, a step is many times slower: no deadline. A compiler or a shell that a
# test starts would be sanitized by way of LD_PRELOAD, hence none of those tests.
"$interpreter" -m pytest --quiet -p no:cacheprovider "$@"
