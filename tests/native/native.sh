#!/usr/bin/env bash
# Builds check_kernels from the extension's sources with the extension's flags, and runs it on every
# instruction set of this machine. Objects are kept in build/native and made anew when a source changes.
#
#   tests/native/native.sh [ISA]
#
# For another machine (see aarch64.sh): MACHINE names it, CXX the compiler, RUNNER what runs the program.
set -euo pipefail
cd "$(dirname "$0")/../.."
machine=${MACHINE:-$(uname -m)}
cxx=${CXX:-g++}
folder=build/native/$machine
mkdir -p "$folder"

# From setup.py itself, so that what is checked is what ships: the flags of all files in one line, the
# parts of an instruction set in another, then a line for each set, its name first.
mapfile -t lines < <(python3 - "$machine" <<'CODE'
import ast, sys

names = {}
for node in ast.parse(open("setup.py").read()).body:
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in {"FLAGS", "ISA_FLAGS", "PARTS"}:
        exec(compile(ast.Module([node], []), "setup.py", "exec"), names)
print(*names["FLAGS"])
print(*names["PARTS"])
for isa, flags in names["ISA_FLAGS"].get(sys.argv[1], {"baseline": []}).items():
    print(isa, *flags)
CODE
)
flags=${lines[0]}
parts=${lines[1]}

objects=()
commands=()
compile() {  # SOURCE [FLAGS]
    local object=$folder/${1//\//_}.o
    objects+=("$object")
    # find complains where there is no object yet, which makes it old as well.
    if [ -n "$(find csrc setup.py tests/native -newer "$object" 2>&1)" ]; then
        commands+=("$cxx -Wall -Wextra -Werror $flags ${*:2} -c $1 -o $object")
    fi
}
for part in $parts; do
    for line in "${lines[@]:2}"; do
        read -r isa isa_flags <<<"$line"
        compile "csrc/isa/$isa/$part.cpp" "$isa_flags"
    done
done
for source in csrc/*.cpp tests/native/*.cpp; do compile "$source"; done
if [ ${#commands[@]} -gt 0 ]; then
    printf '%s\n' "${commands[@]}" | xargs -d '\n' -n 1 -P "$(nproc)" sh -c
fi
"$cxx" -fopenmp "${objects[@]}" -o "$folder/check_kernels"

# There may be fewer cores than threads: those that wait shall not spin.
OMP_WAIT_POLICY=passive ${RUNNER:-} "$folder/check_kernels" "$@"
