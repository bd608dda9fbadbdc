#!/usr/bin/env bash
# On a machine with nvcc, a CUDA device and a torch that sees it: builds, tests, checks with compute-sanitizer, measures.
#
#   tests/cuda.sh [FOLDER]     PYTHON names the interpreter (default: python). Results go to FOLDER (default: build/cuda):
#                              tests.txt, sanitizer.txt, and the table, bench.md
#
# The module is built for the device at hand alone. Everything together is meant to take less than ten minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
folder=$(mkdir -p "${1:-build/cuda}" && cd "${1:-build/cuda}" && pwd)
arch=$("$python" -P -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
if [ "$arch" = 90 ]; then arch=90a; fi

FASTCV_CUDA=1 FASTCV_CUDA_ARCHS=$arch "$python" -P -m pip install --quiet --no-deps --no-build-isolation \
    --target "$folder/site" --upgrade .
export PYTHONPATH=$folder/site
"$python" -P -m fastcv info

"$python" -P -m pytest -rs tests/test_cuda_*.py | tee "$folder/tests.txt"

# Reads and writes, and races within blocks. Small calls: each instruction costs a hundredfold.
for tool in memcheck racecheck initcheck; do
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 1 \
        "$python" -P -m pytest -q tests/test_cuda_torch.py -k "test_on_a_device or convolution_on or wrong_index or assignment or detr_match or gram_matrices or groups_on or (attention_on and 49)"
done | tee "$folder/sanitizer.txt"

"$python" -P bench/on_cuda.py | tee "$folder/bench.md"
