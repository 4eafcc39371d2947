#!/bin/sh
# Compiles the native tests for 64-bit ARM and runs them in an emulator; the digest must be that of this machine.
#
# usage: tests/native/neon.sh      from the repository's root
set -eu
for program in aarch64-linux-gnu-g++ qemu-aarch64 cmake; do
  if ! command -v "$program" >/dev/null; then
    echo "skipped: $program is missing. On Debian: apt-get install cmake g++-aarch64-linux-gnu qemu-user"
    exit 0
  fi
done

build=build/neon
mkdir -p "$build"
compile() { # folder, then options
  folder=$1
  shift
  cmake -S . -B "$folder" -DCMAKE_BUILD_TYPE=Release -DPOLYCHRON_NATIVE_TESTS=ON "$@" >"$folder.log"
  cmake --build "$folder" --parallel >>"$folder.log" || { cat "$folder.log"; exit 1; }
}
compile "$build/here"
compile "$build/arm" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ "-DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64;-L;/usr/aarch64-linux-gnu"
ctest --test-dir "$build/arm" --output-on-failure
here=$("$build/here/tests/native/same_bits_test")
arm=$(qemu-aarch64 -L /usr/aarch64-linux-gnu "$build/arm/tests/native/same_bits_test")
printf '%s\n%s\n' "here  $here" "arm   $arm"
[ "${here##* }" = "${arm##* }" ] || { echo "the digests differ: not the same bits on both processors"; exit 1; }
