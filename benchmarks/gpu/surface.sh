#!/usr/bin/env bash
# The CUDA surface on a machine with a GPU and nvcc: contract tests of rasteriser, kernels and the captured frame, their
# timings, and the contract tests over nvdiffrast where it is installed.
# Called by run.sh or alone; TINY=1 goes through it in the emulation on a CPU.
set -euo pipefail
source "$(dirname "$0")/prepare.sh"

device=cuda which="cuda and not nvdiffrast" sizes=(--vertices 10000,40000 --views 10 --size 512)
if [ -n "${TINY:-}" ]; then
    device=cpu which=emulated sizes=(--vertices 640 --views 4 --size 64 --repeats 2 --frames 2)
fi
"$python" -m pytest -q -k "$which" tests/geometry/test_rasterize.py tests/fusion_server/test_surface_kernels.py \
    tests/fusion_server/test_surface_frame.py -p no:cacheprovider
"$python" -m benchmarks kernels --device "$device" "${sizes[@]}" --json "$out/kernels.json"
"$python" -m pytest -q -k "nvdiffrast and not cuda" tests/geometry/test_rasterize.py -p no:cacheprovider
