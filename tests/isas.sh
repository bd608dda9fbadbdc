#!/usr/bin/env bash
# Runs the whole suite once for each instruction set that this machine has, by forcing it.
#
#   tests/isas.sh [PYTEST ARGUMENTS]      PYTHON names the interpreter (default: python)
set -euo pipefail
cd "$(dirname "$0")/.."
# -P: the installed package is tested, not the source folder beside it.
python=("${PYTHON:-python}" -P)

available=$("${python[@]}" -c 'import fastcv; print(*fastcv.show_config("dicts")["isa"]["available"])')
for isa in $available; do
    echo "== FASTCV_ISA=$isa"
    FASTCV_ISA=$isa "${python[@]}" -m pytest "$@"
done
