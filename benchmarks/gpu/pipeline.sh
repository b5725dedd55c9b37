#!/usr/bin/env bash
# From JPEGs to meshes on a machine with a GPU and nvcc: contract tests of the sight, the decoders side by side, then a
# baked take of 10 views of 512 px through the pipeline. Called by run.sh or alone; TINY=1 goes through it on a CPU.
set -euo pipefail
source "$(dirname "$0")/prepare.sh"

device=cuda decoders=() bake=(--views 10 --pixels 512 --seconds 2 --workers "$(nproc)")
sizes=(--size 512 --fps 30,60,0 --frames 60 --cpu-frames 6)
if [ -n "${TINY:-}" ]; then
    device=cpu decoders=(--sizes 96x64 --views 2 --repeats 2)
    bake=(--views 6 --pixels 160 --seconds 0.2)
    sizes=(--size 96 --fps 0 --frames 4 --cpu-frames 3 --vertices 600)
fi
"$python" -m pytest -q tests/fusion_server/test_sight.py tests/fusion_server/test_sight_order.py \
    tests/geometry/test_lane.py -p no:cacheprovider
"$python" -m benchmarks decoders --device "$device" "${decoders[@]}" --json "$out/decoders.json"
"$python" -m benchmarks pipeline "$work/take" --device "$device" "${bake[@]}" "${sizes[@]}" --json "$out/pipeline.json"
if [ "$("$python" -c 'import torch; print(torch.cuda.device_count())')" -gt 1 ]; then
    "$python" -m benchmarks pipeline "$work/take" --device cuda:0 --surface-device cuda:1 --ways device \
        "${sizes[@]}" --cpu-frames 0 --json "$out/pipeline-two-gpus.json"
fi
