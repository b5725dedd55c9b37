#!/usr/bin/env bash
# One command on a machine with a CUDA GPU, nvcc, torch and no network: contract tests of engines, rasteriser, surface
# kernels, captured frame and sight, then timings, the most wanted first.
#     bash benchmarks/gpu/run.sh [PART...]
# A part that fails or runs past its time stops no other, and all end within BUDGET seconds (300): together the parts may
# take longer, and what comes last is then left out. Printed last, and kept in $OUT (default: the current folder) as
# gpu-checks.txt: the machine, which parts passed, and the numbers; gpu-checks.tar.gz has every log, and JSON row by row
# as it came. The status is 1 where a part failed. What Python lacks there is brought by pack.sh, or must be there:
# numpy, opencv, numba, scipy, scikit-image, safetensors, platformdirs, msgpack, pytest (with xdist it is quicker).
# RATES=30,60,0 are the pipeline's rates. TINY=1 goes through all of it on a CPU in some minutes.
set -euo pipefail
source "$(dirname "$0")/prepare.sh"

chosen=$* slower=1 budget=${BUDGET:-300} failed=0
kept=$work/checks
rm -rf "$kept" && mkdir -p "$kept"
cp "$work/machine.txt" "$kept/"

# part NAME SECONDS COMMAND...: runs it alone, keeps what it prints, and notes what came of it.
part() {
    local name=$1 limit=$(($2 * slower)) begin=$SECONDS code=0 verdict=passed
    shift 2
    [[ -z $chosen || " $chosen " == *" $name "* ]] || return 0
    [ $((budget - SECONDS)) -gt "$limit" ] || limit=$((budget - SECONDS))
    if [ "$limit" -lt 5 ]; then
        verdict="no time left" failed=1
    else
        timeout -s INT -k 5 "$limit" "$@" >"$kept/$name.log" 2>&1 || code=$?
        case $code in
            0) ;;
            124 | 137) verdict="past its $limit s" failed=1 ;;
            *) verdict="FAILED ($code)" failed=1 ;;
        esac
    fi
    printf '%-20s %-16s %4d s\n' "$name" "$verdict" $((SECONDS - begin)) | tee -a "$kept/parts.txt"
}

# normals NAME ARGUMENTS: timings of an engine.
normals() {
    local name=$1
    shift
    part "$name" 20 "$python" -m benchmarks normals --shapes "$shapes" --repeats "$repeats" --json "$kept/$name.json" "$@"
}

device=cuda on=cuda off=emulated shapes=8x256,10x256,10x512 largest=10x512 repeats=50 compiled=()
kernels=(--views 10 --size 512 --frames 5 --cpu-repeats 1) few=10000 many=40000
decoders=(--views 10) take=(--views 10 --pixels 512 --seconds 0.8 --workers "$(nproc)")
sets=(--size 512 --fps "${RATES:-30,60,0}" --frames 40 --cpu-frames 5)
if [ -n "${TINY:-}" ]; then
    device=cpu on=emulated off=cuda shapes=2x64 largest=2x64 repeats=3 compiled=(emulated) slower=8 budget=${BUDGET:-1800}
    kernels=(--views 4 --size 64 --frames 2 --repeats 2 --cpu-repeats 1) few=640 many=2560
    decoders=(--sizes 96x64 --views 2 --repeats 2) take=(--views 6 --pixels 160 --seconds 0.2)
    sets=(--size 96 --fps 0 --frames 4 --cpu-frames 4 --vertices 600)
fi
workers=()
if "$python" -c 'import xdist' 2>/dev/null; then
    count=$(($(nproc) * 3 / 4))
    workers=(-n "$((count > 1 ? count : 2))" --dist worksteal)
fi

part compile 40 "$python" benchmarks/gpu/compile_kernels.py "${compiled[@]}"
part tests 90 env NUMBA_NUM_THREADS=2 "$python" -m pytest "${workers[@]}" -q --durations=10 -p no:cacheprovider \
    -k "((test_engines and (torch or tensorrt)) or test_static or test_sight or test_lane or test_device or $on or nvdiffrast) and not $off and not openvino" \
    tests/models/test_engines.py tests/models/test_static.py tests/geometry/test_rasterize.py tests/geometry/test_lane.py \
    tests/geometry/test_device.py \
    tests/fusion_server/test_surface_kernels.py tests/fusion_server/test_surface_frame.py \
    tests/fusion_server/test_surface_skin_frame.py \
    tests/fusion_server/test_sight.py tests/fusion_server/test_sight_order.py
normals normals-torch --engine torch --precision bf16
if [ -f "$carry/take.tar.xz" ] && [ -z "${TINY:-}" ] && [ ! -d "$work/take" ]; then
    "$python" -m tarfile -e "$carry/take.tar.xz" "$work"
fi
part pipeline 60 "$python" -m benchmarks pipeline "$work/take" --device "$device" "${take[@]}" "${sets[@]}" \
    --json "$kept/pipeline.json"
part kernels 40 "$python" -m benchmarks kernels --device "$device" --vertices $few "${kernels[@]}" --json "$kept/kernels.json"
part decoders 15 "$python" -m benchmarks decoders --device "$device" "${decoders[@]}" --json "$kept/decoders.json"
full=$(compgen -G "$work/full.safetensors*" | head -n 1 || compgen -G "$carry/full.safetensors*" | head -n 1 || true)
untrained=(--config models/training/full.toml)  # random weights take the same time; rows say that they are
shapes=$largest normals normals-full --engine torch --precision bf16 ${full:+--weights "$full"} "${untrained[@]:${full:+2}}"
if [ -n "$full" ]; then  # random weights would make no mesh
    part pipeline-full 45 "$python" -m benchmarks pipeline "$work/take" --device "$device" "${take[@]}" "${sets[@]}" \
        --ways device --cpu-frames 0 --weights "$full" --json "$kept/pipeline-full.json"
fi
shapes=$largest normals normals-no-graph --engine torch --precision bf16 --no-graph
shapes=$largest normals normals-f16 --engine torch --precision f16
part kernels-many 40 "$python" -m benchmarks kernels --device "$device" --vertices $many "${kernels[@]}" \
    --json "$kept/kernels-many.json"
if [ -z "$("$python" -c 'from models.engines import why_not; print(why_not("tensorrt"))')" ]; then
    normals normals-tensorrt --engine tensorrt
    normals normals-tensorrt-no-graph --engine tensorrt --no-graph
fi
if [ -z "${TINY:-}" ] && [ "$("$python" -c 'import torch; print(torch.cuda.device_count())')" -gt 1 ]; then
    part pipeline-two-gpus 60 "$python" -m benchmarks pipeline "$work/take" --device cuda:0 --surface-device cuda:1 \
        --ways device "${sets[@]}" --cpu-frames 0 --json "$kept/pipeline-two-gpus.json"
fi

summary() {
    local log
    for log in "$kept"/*.log; do
        case $(basename "$log" .log) in
            tests) grep -E '^(FAILED|ERROR) |[0-9]+ (passed|failed)|^no tests' "$log" | cut -c1-200 | tail -n 14 || true ;;
            compile) tail -n 1 "$log" ;;
            kernels*) sed -e '/[┏└┡]/d' -e 's/[│┃]/|/g' "$log" | cut -c1-110 | tail -n 45 ;;
            pipeline*) echo "$(basename "$log" .log):" && tail -n 30 "$log" | cut -c1-420 ;;
            *) echo "$(basename "$log" .log):" && tail -n 8 "$log" | cut -c1-420 ;;
        esac
    done
    cat "$kept/machine.txt" "$kept/parts.txt"
}
echo
summary | tee "$out/gpu-checks.txt" "$kept/gpu-checks.txt" | tail -c 9000
tar -czf "$out/gpu-checks.tar.gz" -C "$kept" .
exit "$failed"
