#!/usr/bin/env bash
# One command on a machine with a CUDA GPU, torch and no network: contract tests of the engines, then timings.
# Prints a table and writes its numbers to $OUT (default: the current folder). What Python lacks there is brought by
# pack.sh, or must be there: numpy, opencv, numba, scipy, scikit-image, safetensors, platformdirs, msgpack, pytest.
# TINY=1 goes through all of it on a CPU in some minutes.
set -euo pipefail
source "$(dirname "$0")/prepare.sh"

"$python" -m pytest -q -k "(torch or tensorrt) and not openvino" tests/models/test_engines.py -p no:cacheprovider
"$python" -m pytest -q tests/models/test_static.py -p no:cacheprovider
shapes=8x256,10x256,10x512 repeats=100
if [ -n "${TINY:-}" ]; then
    shapes=2x64 repeats=3
fi

# normals NAME ARGUMENTS: timings of an engine, printed and kept.
normals() {
    local name=$1
    shift
    echo "== $name"
    "$python" -m benchmarks normals --shapes "$shapes" --repeats "$repeats" --json "$out/$name.json" "$@"
}

normals normals-torch --engine torch --precision bf16
normals normals-torch-no-graph --engine torch --precision bf16 --no-graph
normals normals-torch-f16 --engine torch --precision f16
if [ -z "$("$python" -c 'from models.engines import why_not; print(why_not("tensorrt"))')" ]; then
    normals normals-tensorrt --engine tensorrt
    normals normals-tensorrt-no-graph --engine tensorrt --no-graph
fi
full=$(compgen -G "$work/full.safetensors*" | head -n 1 || true)
full=${full:-$(compgen -G "$carry/full.safetensors*" | head -n 1 || true)}
if [ -n "$full" ]; then
    normals normals-full --engine torch --precision bf16 --weights "$full"
fi
bash benchmarks/gpu/surface.sh
bash benchmarks/gpu/pipeline.sh
