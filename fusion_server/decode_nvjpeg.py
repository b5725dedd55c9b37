"""JPEG to RGB by nvJPEG, on the GPU where the pictures are wanted. Optional: ``pip install 'headstream[nvjpeg]'``.

nvJPEG comes through TorchCodec, which PyTorch's people keep and to which torchvision's decoder has moved. Which of the
two decoders is the quicker one is for ``benchmarks/gpu/run.sh`` to say on the machine that is meant.
**It has never been executed, on a GPU or with TorchCodec** (whose wheel for Linux wants CUDA's libraries): tests run
this file with a stand-in for its one function.

nvJPEG is not as strict as ours: a JPEG without its end is refused here before it is asked, but what it makes of data
damaged in between is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, frombuffer, uint8

from fusion_server.decode import Jpeg, strict_turbojpeg, undecodable, unfit
from geometry.device import Lane
from protocol.calibration import Calibration, Camera
from protocol.errors import HeadstreamError

_END = b"\xff\xd9"  # within a picture's data a byte 0xff is always followed by another than this


class NvjpegDecoder:
    """See ``decode.Decoder``: tensors on the lane's device, ready for any lane."""

    name = "nvjpeg"

    def __init__(self, lane: Lane) -> None:
        """Raises HeadstreamError when TorchCodec is not there, or cannot be loaded."""
        try:
            from torchcodec.decoders import decode_jpeg
        except (ImportError, OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise HeadstreamError(
                f"normals.decode: 'nvjpeg' needs torchcodec ({reason}); pip install 'headstream[nvjpeg]'"
            ) from None
        self._decode_jpeg: Any = decode_jpeg
        self._headers = strict_turbojpeg()
        self._lane = lane

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
        planes = self._decode_jpeg(sources, mode="RGB", device=self._lane.device)
        return [each.permute(1, 2, 0).contiguous() for each in planes]

    def _unfit(self, camera: Camera, jpeg: Jpeg) -> str:
        try:
            fault = unfit(self._headers, camera, jpeg)
            if not fault and bytes(jpeg).rfind(_END) < 0:
                raise OSError("it ends too early")
            return fault
        except (OSError, ValueError) as error:
            return undecodable(jpeg, error)
