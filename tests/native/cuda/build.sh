#!/usr/bin/env bash
# Builds fastcv._cuda's sources for the CPU, over emulation.h, for tests/test_cuda_*.py.
#
#   tests/native/cuda/build.sh FOLDER [FLAGS]     PYTHON names the interpreter (default: python)
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=${PYTHON:-python}
folder=$1
mkdir -p "$folder"
includes=$("$python" -P -c '
import pybind11, sysconfig
print("-I" + pybind11.get_include(), "-I" + sysconfig.get_path("include"))')
suffix=$("$python" -P -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
flags="-std=c++17 -O1 -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Wextra -Wno-clobbered -Wno-unknown-pragmas -Werror ${*:2}"
emulation="-x c++ -include tests/native/cuda/emulation.h"
for source in csrc/cuda/*.cu csrc/cuda/*.cpp; do
    object=$folder/$(basename "$source").o
    printf '%s\n' "g++ $flags $includes $emulation -DFASTCV_CUDA_ARCHS=emulated -c $source -o $object"
done | xargs -d '\n' -n 1 -P "$(nproc)" sh -c
objects=("$folder"/*.o)
g++ -shared "${objects[@]}" -o "$folder/_cuda$suffix"
