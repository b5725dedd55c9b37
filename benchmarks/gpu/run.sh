#!/usr/bin/env bash
# One command on a machine with a CUDA GPU, torch and no network: contract tests of the engines, then timings.
# Prints a table and writes its numbers to $OUT (default: the current folder). What Python lacks there must be on
# PYTHONPATH already: numpy, opencv, numba, safetensors, platformdirs, msgpack, pytest.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${OUT:-.}

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
python3 - <<'PY'
import torch
assert torch.cuda.is_available(), "torch sees no GPU"
print("torch", torch.__version__, "CUDA", torch.version.cuda)
PY

python3 -m pytest -q -k "torch" tests/models/test_engines.py -p no:cacheprovider
python3 -m benchmarks normals --engine torch --precision bf16 --shapes 8x256,10x256,10x512 --repeats 100 \
    --json "$out/normals.json"
