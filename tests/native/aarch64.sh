#!/usr/bin/env bash
# Cross-compiles the kernels and their check for aarch64, without a warning, and runs it under QEMU.
#
#   tests/native/aarch64.sh [--install]     --install gets missing packages with apt-get (Debian, Ubuntu)
set -euo pipefail

missing=()
command -v aarch64-linux-gnu-g++ >/dev/null || missing+=(g++-aarch64-linux-gnu)
command -v qemu-aarch64 >/dev/null || missing+=(qemu-user)
if [ ${#missing[@]} -gt 0 ]; then
    if [ "${1:-}" != --install ]; then
        echo "aarch64.sh: missing packages: ${missing[*]} (--install gets them)" >&2
        exit 1
    fi
    as_root=$([ "$(id -u)" = 0 ] || echo sudo)
    $as_root apt-get update
    $as_root apt-get install -y "${missing[@]}"
fi

MACHINE=aarch64 CXX=aarch64-linux-gnu-g++ RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu" \
    exec "$(dirname "$0")/native.sh"
