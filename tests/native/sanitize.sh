#!/bin/sh
# The native tests under AddressSanitizer with UndefinedBehaviorSanitizer, then under ThreadSanitizer. Without Python,
# which is not instrumented.
#
# usage: tests/native/sanitize.sh      from the repository's root
set -eu
build=build/sanitize

native_tests() { # folder sanitizers
  cmake -S . -B "$1" -DCMAKE_BUILD_TYPE=Release -DPOLYCHRON_NATIVE_TESTS=ON -DPOLYCHRON_SANITIZE="$2" >"$1.log"
  cmake --build "$1" --parallel >>"$1.log" || { cat "$1.log"; exit 1; }
  ctest --test-dir "$1" --output-on-failure
}

mkdir -p "$build"
native_tests "$build/memory" address,undefined
native_tests "$build/threads" thread
