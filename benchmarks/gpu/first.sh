#!/usr/bin/env bash
# The first call on a lent machine: contract tests while train.sh tries itself out for a minute and a half, then timings
# with nothing beside them. BUDGET (240) seconds in all; what fails can be mended before the call that trains.
#     bash benchmarks/gpu/first.sh
# $OUT gets tests/, times/ (run.sh's) and smoke.tar.gz. The status is 1 where something failed. TINY=1 goes through it on a CPU.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${OUT:-.} smoke=${WORK:-/tmp/headstream-gpu}-smoke failed=0
budget=${BUDGET:-240}
[ -z "${TINY:-}" ] || budget=1800
mkdir -p "$out/tests" "$out/times" "$smoke/out"

WORK=$smoke OUT=$smoke/out T_DATA=35 T_LITE=10 T_FULL=12 T_CHECK=0 bash benchmarks/gpu/train.sh >"$smoke/train.log" 2>&1 &
training=$!
OUT=$out/tests BUDGET=$((budget / 2)) bash benchmarks/gpu/run.sh compile tests || failed=1
wait $training || failed=1
tail -n 12 "$smoke/train.log" | cut -c1-300
tail -n 2 "$smoke"/*/log.csv "$smoke"/*.err
cp "$smoke/out/results.tar.gz" "$out/smoke.tar.gz"
OUT=$out/times BUDGET=$((budget - SECONDS)) bash benchmarks/gpu/run.sh normals-torch pipeline kernels decoders normals-full \
    pipeline-full normals-no-graph normals-f16 kernels-many normals-tensorrt normals-tensorrt-no-graph pipeline-two-gpus || failed=1
exit $failed
