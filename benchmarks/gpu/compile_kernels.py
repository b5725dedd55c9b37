"""Compiles every CUDA source once, side by side, so that test workers and timings find them in the cache.

    python benchmarks/gpu/compile_kernels.py [sm_90|emulated]

Without an argument for the GPU that is here; with one, nvcc alone is needed and no GPU.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from geometry.device.build import build

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Print how many, and how long it took. Raises HeadstreamError for a source that is refused."""
    if len(sys.argv) > 1:
        architecture = sys.argv[1].removeprefix("emulated")
    else:
        import torch

        architecture = "sm_{}{}".format(*torch.cuda.get_device_capability())
    sources = [source for room in ("geometry", "fusion_server") for source in (ROOT / room).rglob("*.cu")]
    start = time.perf_counter()
    with ThreadPoolExecutor() as pool:  # compilers are processes of their own
        libraries = list(pool.map(lambda source: build(source, architecture), sources))
    print(f"{len(libraries)} libraries for {architecture or 'the emulation'} in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
