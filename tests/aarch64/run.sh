#!/bin/sh
# Tests the kernels for 64-bit ARM under emulation: tests/aarch64/run.sh [python]
# On Debian and Ubuntu it installs the two tools it needs, if it may.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$(dirname "$here")")
compiler=aarch64-linux-gnu-gcc
emulator=qemu-aarch64

python=${1:-${PYTHON:-}}
if [ -z "$python" ]; then
    cd "$root" # a relative VENV is the makefile's
    python=$(realpath -s "${VENV:-.venv}")/bin/python
    [ -x "$python" ] || python=python3
fi
if ! "$python" -c 'import miaotui, llvmlite, numpy' 2>/dev/null; then
    echo "$0: $python has no miaotui. Run 'make test-fast' first, or name another: $0 /path/to/python" >&2
    exit 1
fi

if ! command -v $compiler >/dev/null || ! command -v $emulator >/dev/null; then
    packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "$0: needs $compiler and $emulator. On Debian and Ubuntu: apt install $packages" >&2
        exit 1
    fi
    echo "Installing $packages (once) ..."
    apt-get update -qq
    # shellcheck disable=SC2086  # a list
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi

exec "$python" "$here/compare.py" $compiler $emulator
