#!/usr/bin/env bash
# Runs the whole suite once for each instruction set that this machine has, by forcing it.
#
#   tests/isas.sh [PYTEST ARGUMENTS]      PYTHON names the interpreter (default: python)
#
# With PLAINER=1 only for those below the one that is chosen without force, which an ordinary run tests.
set -euo pipefail
cd "$(dirname "$0")/.."
# -P: the installed package is tested, not the source folder beside it.
python=("${PYTHON:-python}" -P)

available=$("${python[@]}" - <<'CODE'
import os

import fastcv

isa = fastcv.show_config("dicts")["isa"]
print(*(name for name in isa["available"] if not os.environ.get("PLAINER") or name != isa["in use"]))
CODE
)
for isa in $available; do
    echo "== FASTCV_ISA=$isa"
    FASTCV_ISA=$isa "${python[@]}" -m pytest "$@"
done
