#!/usr/bin/env bash
# Compiles the CUDA kernels for two architectures with nvcc, every warning an error. Needs no device.
#
#   tests/cuda_compile.sh [ARCHITECTURES]     80 90a, unless they are given
set -euo pipefail
cd "$(dirname "$0")/.."
folder=build/cuda_compile
mkdir -p "$folder"
flags="-std=c++17 -O3 -Werror all-warnings -Xcompiler -fPIC,-Wall,-Wextra,-Werror"
for arch in ${*:-80 90a}; do flags+=" -gencode arch=compute_$arch,code=sm_$arch"; done
for source in csrc/cuda/*.cu; do
    printf '%s\n' "nvcc $flags -c $source -o $folder/$(basename "$source").o"
done | xargs -d '\n' -n 1 -P "$(nproc)" sh -c
