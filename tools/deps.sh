#!/bin/sh
# Installs the Debian packages that are missing for what is asked for; silent when none is. Usage: deps.sh build|test|interop|bench|lint|arm64|all
# Elsewhere than on Debian it does nothing: CMake then names what it does not find.
set -eu

# The C library of MessagePack has another name from Debian 13 on.
version=$(sed -n 's/^VERSION_ID="\{0,1\}\([0-9]*\).*/\1/p' /etc/os-release 2>/dev/null) || true
msgpack=libmsgpack-c-dev
[ "${version:-13}" -ge 13 ] || msgpack=libmsgpack-dev

build="gcc libc6-dev make cmake pkgconf libprotobuf-c-dev protobuf-c-compiler protobuf-compiler libprotobuf-dev libjansson-dev libyaml-dev
  libgrpc-dev python3-dev python3-protobuf python3-jinja2 python3-grpcio"
test="$build g++ libcmocka-dev mypy openssl python3-pytest python3-yaml python3-setuptools python3-wheel python3-pip python3-venv python3-sklearn
  python3-pandas $msgpack python3-msgpack libuv1-dev libmicrohttpd-dev wrk"
interop=$test # and gRPC's own schemas, which Debian 13 does not have
[ "${version:-13}" -ge 13 ] || interop="$interop grpc-proto"
bench="$build g++ libgrpc++-dev protobuf-compiler-grpc libthrift-c-glib-dev libglib2.0-dev thrift-compiler python3-thrift libzmq3-dev python3-zmq
  libcurl4-openssl-dev python3-aiohttp python3-matplotlib"
lint="clang-format flake8 mypy shellcheck"
arm64="$build gcc-aarch64-linux-gnu g++-aarch64-linux-gnu qemu-user mmdebstrap"
all="$test $bench $lint git clang valgrind"

case "${1:-}" in
  build) wanted=$build ;;
  test) wanted=$test ;;
  bench) wanted=$bench ;;
  interop) wanted=$interop ;;
  lint) wanted=$lint ;;
  arm64) wanted=$arm64 ;;
  all) wanted=$all ;;
  *)
    echo "usage: $0 build|test|interop|bench|lint|arm64|all" >&2
    exit 2
    ;;
esac

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || exit 0
# shellcheck disable=SC2016,SC2086  # dpkg's own ${…}; a list of words
present=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $wanted 2>/dev/null | sed -n 's/^installed //p') || true
missing=
for package in $wanted; do
  echo "$present" | grep -qx "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

echo "deps: installing$missing"
as_root=
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "deps: cannot install without root and without sudo; run as root: apt-get install$missing" >&2
    exit 1
  fi
  as_root=sudo
  [ -t 0 ] || as_root="sudo -n"
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086  # lists of words
if ! { $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
  $missing; } >"$log" 2>&1; then
  cat "$log" >&2
  echo "deps: apt-get failed, see above; missing are$missing" >&2
  exit 1
fi
