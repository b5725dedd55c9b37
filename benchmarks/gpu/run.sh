#!/usr/bin/env bash
# One command on a machine with a CUDA GPU, torch and no network: contract tests of the engines, then timings.
# Prints a table and writes its numbers to $OUT (default: the current folder). What Python lacks there is brought by
# pack.sh, or must be there: numpy, opencv, numba, safetensors, platformdirs, msgpack, pytest.
# TINY=1 goes through all of it on a CPU in a minute.
set -euo pipefail
source "$(dirname "$0")/prepare.sh"

"$python" -m pytest -q -k "torch and not openvino" tests/models/test_engines.py -p no:cacheprovider
shapes=8x256,10x256,10x512 repeats=100
if [ -n "${TINY:-}" ]; then
    shapes=2x64 repeats=3
fi
"$python" -m benchmarks normals --engine torch --precision bf16 --shapes "$shapes" --repeats "$repeats" \
    --json "$out/normals.json"
if compgen -G "$work/full.safetensors*" >/dev/null; then
    "$python" -m benchmarks normals --engine torch --precision bf16 --shapes "$shapes" --repeats "$repeats" \
        --weights "$work/full.safetensors" --json "$out/normals-full.json"
fi
