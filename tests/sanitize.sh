#!/usr/bin/env bash
# Builds the extension with the address and undefined-behaviour sanitizers and runs the suite on it.
#
# Everything happens in build/sanitize: a copy of the sources, so that no sanitized object file is
# taken for an ordinary one later, and the package installed from it.
#
#   tests/sanitize.sh [PYTEST ARGUMENTS]      PYTHON names the interpreter (default: python)
set -euo pipefail
cd "$(dirname "$0")/.."
# -P: the sanitized package is tested, not the source folder.
python=("${PYTHON:-python}" -P)
folder=$PWD/build/sanitize

rm -rf "$folder"
mkdir -p "$folder/source"
cp -r csrc fastcv setup.py pyproject.toml README.md LICENSE "$folder/source"
rm -f "$folder"/source/fastcv/_core.*.so
FASTCV_SANITIZE=address,undefined \
    "${python[@]}" -m pip install --quiet --no-deps --target "$folder/site" "$folder/source"

# The interpreter itself is not sanitized: the runtimes have to be there first, and what Python never
# frees is no leak of ours. Python's own allocator would hide overruns.
export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export PYTHONMALLOC=malloc
export PYTHONPATH=$folder/site

"${python[@]}" - "$folder" <<'CODE'
import sys
from pathlib import Path
from fastcv import _core
assert Path(sys.argv[1]) in Path(_core.__file__).parents, f"{_core.__file__} is another build"
assert b"__asan_" in Path(_core.__file__).read_bytes(), f"{_core.__file__} is not sanitized"
CODE
"${python[@]}" -m pytest "$@"
