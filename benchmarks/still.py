"""The same pictures again and again: how far the mesh of a subject that does not move creeps from its keyframe.

    python -m benchmarks still CAPTURE [--cameras GROUP] [--frames 20] [--noise]

Without --noise the pictures are the same to the bit. With it each is exposed anew: a sensor's noise and JPEG's, as the
baked captures have them, are drawn for every frame, and so are, through the network, the errors of normals and masks
that come of them. What is printed last is jitter: from the sixth warm frame on, each vertex's root mean square about
its own mean, along its normal.

Distances are from the warm mesh's vertices to the keyframe's surface, which is what `headstream reconstruct` makes of
the first frame; a step is the same from one warm mesh to the next.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks._machine import machine
from benchmarks._takes import photographed, trembling
from fusion_server.decode import TurboDecoder
from fusion_server.reconstruct import make_reconstructor
from geometry.measure import SurfaceIndex
from geometry.mesh import Mesh
from protocol.capture_folder import CaptureFolder
from protocol.errors import HeadstreamError
from protocol.rig import NormalsConfig, SurfaceConfig

SHOWN = (0.5, 0.95, 1.0)  # quantiles
SETTLE = 5  # warm frames before jitter is measured


def main() -> None:
    """Print a line every few frames."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("--cameras")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--noise", action="store_true", help="draw the pictures' noise anew in each frame")
    options = parser.parse_args()
    try:
        folder = CaptureFolder.open(options.capture)
        calibration = folder.calibration.select(options.cameras)
        jpegs = {name: folder.jpeg(folder.frames[0], name).read_bytes() for name in calibration.names}
        images, faults = TurboDecoder().decode(jpegs, calibration)
        if faults:
            raise HeadstreamError("; ".join(faults.values()))
        reconstructor = make_reconstructor(calibration, NormalsConfig(), SurfaceConfig())
        _, keyframe = reconstructor.reconstruct(images)
    except (HeadstreamError, OSError) as error:
        raise SystemExit(f"benchmarks still: {error}") from None
    print(f"{machine()}; {options.capture.name}, {len(images)} cameras, {len(keyframe.vertices)} vertices")
    print("frame   from the keyframe, mm: median, 95 %, most   a step, mm: 95 %   flags")
    start = last = SurfaceIndex(Mesh(keyframe.vertices, keyframe.faces))
    draw = np.random.default_rng(1)
    settled = []
    for n in range(1, options.frames + 1):
        exposed = {name: photographed(image, draw) for name, image in images.items()} if options.noise else images
        _, surface = reconstructor.reconstruct(exposed)
        if n > SETTLE and surface.vertices.shape == keyframe.vertices.shape:
            settled.append(surface.vertices)
        if n <= 2 or n % 5 == 0 or n == options.frames:
            away = 1e3 * np.quantile(start.distances(surface.vertices), SHOWN)
            step = 1e3 * np.quantile(last.distances(surface.vertices), SHOWN[1])
            flags = ", ".join(surface.quality.flags)
            print(f"{n:5}   {away[0]:22.3f}{away[1]:8.3f}{away[2]:8.3f}{step:20.3f}   {flags}", flush=True)
        last = SurfaceIndex(Mesh(surface.vertices, surface.faces))
    if len(settled) > 1:
        jitter = trembling(np.stack(settled), surface.normals)
        print(f"jitter over {len(settled)} frames: median {1e3 * jitter.median:.4f} mm, 95 % {1e3 * jitter.p95:.4f}")


if __name__ == "__main__":
    main()
