"""JPEG to RGB by nvJPEG, on the GPU where the pictures are wanted. Optional: ``pip install 'headstream[nvjpeg]'``.

nvJPEG comes through TorchCodec, which PyTorch's people keep, or else through torchvision, whose decoder has moved there
and will go. Whether it is quicker than TurboJPEG is for ``benchmarks/gpu/run.sh`` to say on the machine that is meant.
**It has never been executed, on a GPU or with either** (their wheels for Linux want CUDA's libraries): tests run this
file with stand-ins for their one function.

nvJPEG is not as strict as ours: a JPEG without its end is refused here before it is asked, but what it makes of data
damaged in between is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor, device, frombuffer, uint8

from fusion_server.decode import Jpeg, strict_turbojpeg, undecodable, unfit
from geometry.device import Lane
from protocol.calibration import Calibration, Camera
from protocol.errors import HeadstreamError

Decode = Callable[[list[Tensor], device], list[Tensor]]
_END = b"\xff\xd9"  # within a picture's data a byte 0xff is always followed by another than this


def _of_torchcodec() -> Decode:
    from torchcodec.decoders import decode_jpeg

    return lambda sources, device: decode_jpeg(sources, mode="RGB", device=device)


def _of_torchvision() -> Decode:
    from torchvision.io import ImageReadMode, decode_jpeg

    return lambda sources, device: decode_jpeg(sources, mode=ImageReadMode.RGB, device=device)


class NvjpegDecoder:
    """See ``decode.Decoder``: tensors on the lane's device, ready for any lane."""

    name = "nvjpeg"

    def __init__(self, lane: Lane) -> None:
        """Raises HeadstreamError when neither TorchCodec nor torchvision is there and decodes a picture."""
        self._headers = strict_turbojpeg()
        self._lane = lane
        probe, reasons = self._headers.encode(np.zeros((16, 16, 3), np.uint8)), []
        for self.through, found in (("torchcodec", _of_torchcodec), ("torchvision", _of_torchvision)):
            try:
                self._decode = found()
                with lane.entered():
                    self._batch([probe])  # what was built without nvJPEG says so here, and not at every picture
                return
            except (ImportError, OSError, RuntimeError) as error:
                reasons.append(f"{self.through}: {' '.join(str(error).split())[:120]}")
        raise HeadstreamError(
            f"normals.decode: 'nvjpeg' needs torchcodec, or else torchvision ({'; '.join(reasons)}); "
            "pip install 'headstream[nvjpeg]'"
        )

    def close(self) -> None:
        """See ``Decoder``."""

    def decode(self, jpegs: Mapping[str, Jpeg], calibration: Calibration) -> tuple[dict[str, Tensor], dict[str, str]]:
        """See ``Decoder``."""
        faults = {name: self._unfit(calibration[name], jpeg) for name, jpeg in jpegs.items()}
        whole = {name: jpeg for name, jpeg in jpegs.items() if not faults[name]}
        images: dict[str, Tensor] = {}
        # Before it writes, nothing in the lane may still read: nvJPEG's engine has been seen not to wait.
        self._lane.mark().wait()
        with self._lane.entered():
            try:
                images = dict(zip(whole, self._batch(list(whole.values())), strict=True))
            except (RuntimeError, ValueError):  # one of them; all are refused with it
                for name, jpeg in whole.items():
                    try:
                        images[name] = self._batch([jpeg])[0]
                    except (RuntimeError, ValueError) as error:
                        faults[name] = undecodable(jpeg, error)
        self._lane.mark().wait()
        return images, {name: f"camera {name}: {fault}" for name, fault in faults.items() if fault}

    def _batch(self, jpegs: Sequence[Jpeg]) -> list[Tensor]:
        """Pictures (H, W, 3), all in one call: what nvJPEG is quick at."""
        if not jpegs:
            return []
        sources = [frombuffer(bytearray(jpeg), dtype=uint8) for jpeg in jpegs]
        planes = self._decode(sources, self._lane.device)
        return [each.permute(1, 2, 0).contiguous() for each in planes]

    def _unfit(self, camera: Camera, jpeg: Jpeg) -> str:
        try:
            fault = unfit(self._headers, camera, jpeg)
            if not fault and bytes(jpeg).rfind(_END) < 0:
                raise OSError("it ends too early")
            return fault
        except (OSError, ValueError) as error:
            return undecodable(jpeg, error)
