#!/bin/sh
# Builds the library for aarch64 and runs its unit tests under qemu-user, against a folder of Debian's arm64 packages that is only
# unpacked: the machine's own architectures stay as they are. The worker's extension is compiled and linked, not run.
# Says `skipped: why` where the packages cannot be had. Usage: arm64.sh [BUILD FOLDER]
set -eu
cd "$(dirname "$0")/.."
build=$(mkdir -p "${1:-build-arm64}" && cd "${1:-build-arm64}" && pwd)
root=$build/root
jobs=${JOBS:-$(nproc)}

skip() {
  echo "skipped: $1"
  exit 0
}

command -v apt-get >/dev/null || skip "this is no Debian, whose cross compilers and arm64 packages are used"
tools/deps.sh arm64 >"$build/deps.log" 2>&1 || skip "the packages of a cross build cannot be installed, see $build/deps.log"
if [ ! -e "$root/.complete" ]; then
  # shellcheck disable=SC1091
  suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  rm -rf "$root"
  # Unpacked and not configured: nothing of it runs but what the tests load.
  mmdebstrap --quiet --variant=extract --architectures=arm64 \
    --include=libc6-dev,libprotobuf-c-dev,libjansson-dev,libyaml-dev,libcmocka-dev,libpython3-dev \
    "$suite" "$root" >"$build/root.log" 2>&1 || skip "the arm64 packages cannot be had, see $build/root.log"
  touch "$root/.complete"
fi

cat >"$build/toolchain.cmake" <<TOOLCHAIN
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_SYSROOT $root)
set(CMAKE_FIND_ROOT_PATH $root)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64;-L;$root)
TOOLCHAIN
export PKG_CONFIG_SYSROOT_DIR="$root"
export PKG_CONFIG_LIBDIR="$root/usr/lib/aarch64-linux-gnu/pkgconfig:$root/usr/share/pkgconfig"
cmake -S . -B "$build" -DCMAKE_TOOLCHAIN_FILE="$build/toolchain.cmake" -DCMAKE_BUILD_TYPE=Debug -DPYPROC_WERROR=ON -DPYPROC_TESTS=ON \
  -DPYPROC_EXAMPLES=OFF -DPYPROC_BENCH=OFF -DPYPROC_GRPC=OFF --log-level=WARNING >"$build/configure.log" 2>&1 || {
  cat "$build/configure.log"
  exit 1
}
units=$(for file in tests/unit/test_*.c; do basename "$file" .c; done | sed 's/^test_/unit_/')
# shellcheck disable=SC2086  # a list of words
cmake --build "$build" -j "$jobs" --target pyproc pyproc_static pyproc_worker $units
ctest --test-dir "$build" -R '^unit\.' -j "$jobs" --output-on-failure
