#!/usr/bin/env bash
# Runs the whole suite once for each instruction set that this machine has, by forcing it.
#
#   tests/isas.sh [PYTEST ARGUMENTS]      PYTEST names the executable (default: pytest)
set -euo pipefail
cd "$(dirname "$0")/.."
pytest=${PYTEST:-pytest}
python=$(head -n 1 "$(command -v "$pytest")" | sed 's/^#! *//')

available=$(cd / && "$python" -c 'import fastcv; print(*fastcv.show_config("dicts")["isa"]["available"])')
for isa in $available; do
    echo "== FASTCV_ISA=$isa"
    FASTCV_ISA=$isa "$pytest" "$@"
done
