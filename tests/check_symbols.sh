#!/usr/bin/env bash
# Each object file of an instruction set may export one symbol, which fills a table, and no weak ones.
#
# The linker keeps one copy of a weak symbol (an inline function, a template of the standard library),
# perhaps the copy with the widest instructions, and the program dies on a machine that lacks them.
#
#   tests/check_symbols.sh [FOLDER...]     where setuptools left its objects (default: build/temp.*)
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- build/temp.*

mapfile -t objects < <(find "$@" -path '*/csrc/isa/*/*.o' 2>/dev/null | sort)
if [ ${#objects[@]} -eq 0 ]; then
    echo "check_symbols: no csrc/isa/*/*.o below $*: build the extension first" >&2
    exit 1
fi

failed=0
for object in "${objects[@]}"; do
    isa=$(basename "$(dirname "$object")")
    wanted="fastcv::$isa::add_$(basename "$object" .o)(fastcv::KernelTable&)"
    # Defined symbols that other files can see: everything but the lower-case, local ones. nm writes
    # weak ones as W, V, w, v and unique ones as u.
    visible=$(nm -C --defined-only "$object" | sed 's/^[0-9a-f]* //' | grep -E '^([A-Z]|[wvu]) ' || true)
    if [ "$visible" = "T $wanted" ]; then
        echo "check_symbols: $object exports $wanted alone"
    else
        echo "check_symbols: $object must export $wanted alone, but has:" >&2
        printf '    %s\n' "${visible//$'\n'/$'\n    '}" >&2
        failed=1
    fi
done
exit $failed
