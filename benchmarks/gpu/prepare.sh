# Sourced by run.sh and train.sh: where results go, and what out/gpu (made by pack.sh) adds to a bare machine.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-python3}
out=${OUT:-.}
work=${WORK:-/tmp/headstream-gpu}
carry=$PWD/out/gpu
mkdir -p "$work"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 XDG_CACHE_HOME=$work/cache
if compgen -G "$carry/wheels/*.whl" >/dev/null; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$work/site" "$carry"/wheels/*.whl
    export PYTHONPATH=$PWD:$work/site
fi
if compgen -G "$carry/binary/*.whl" >/dev/null; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$work/site" "$carry"/binary/*.whl ||
        echo "$carry/binary is for another Python; what is in it must be there"
fi
if [ -d "$carry/shapes" ]; then
    export ANNY_CACHE_DIR=$carry/shapes
fi
if [ -d "$carry/lib" ]; then  # libturbojpeg, which ld finds
    export LD_LIBRARY_PATH=$carry/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
{  # what the numbers are of
    date -u '+%F %H:%M UTC'
    git rev-parse --short HEAD 2>/dev/null || true
    if [ -z "${TINY:-}" ]; then
        nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
        "$(command -v "${NVCC:-nvcc}" || echo /usr/local/cuda/bin/nvcc)" --version | grep release || echo "no nvcc"
    fi
    "$python" -c '
import os, platform
from importlib.metadata import version
import torch

assert os.environ.get("TINY") or torch.cuda.is_available(), "torch sees no GPU"
names = ("numpy", "numba", "opencv-python-headless")
print("torch", torch.__version__, "CUDA", torch.version.cuda, "cuDNN", torch.backends.cudnn.version())
print("Python", platform.python_version(), *(f"{name} {version(name)}" for name in names), os.cpu_count(), "cores")'
} | tee "$work/machine.txt"
