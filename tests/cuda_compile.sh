#!/usr/bin/env bash
# Compiles the CUDA kernels for two architectures with nvcc, and the module's bindings as setup.py does, without CUDA's headers;
# every warning an error. Needs no device.
#
#   tests/cuda_compile.sh [ARCHITECTURES]     80 90a, unless they are given. PYTHON names an interpreter with pybind11
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
folder=build/cuda_compile
mkdir -p "$folder"
warnings=-Wall,-Wextra,-Werror
flags="-std=c++17 -O3 -Werror all-warnings -Xcompiler -fPIC,$warnings"
for arch in ${*:-80 90a}; do flags+=" -gencode arch=compute_$arch,code=sm_$arch"; done
includes=$("$python" -P -c '
import pybind11, sysconfig
print("-I" + pybind11.get_include(), "-I" + sysconfig.get_path("include"))')
{
    for source in csrc/cuda/*.cu; do
        printf '%s\n' "nvcc $flags -c $source -o $folder/$(basename "$source").o"
    done
    for source in csrc/cuda/*.cpp; do
        printf '%s\n' "g++ -std=c++17 ${warnings//,/ } $includes -DFASTCV_CUDA_ARCHS=none -fsyntax-only $source"
    done
} | xargs -d '\n' -n 1 -P "$(nproc)" sh -c
