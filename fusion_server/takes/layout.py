"""What a take looks like on disk; writer and reader share it.

    <takes>/<slate>_<take>/take.json     who, when, how many; written again at the end
    <takes>/<slate>_<take>/take.mcap     everything that was received and made while it was recorded
    <takes>/<slate>_<take>/backfill.mcap frames that came after it, out of the nodes' spools; only where there are such

``take.json`` says ``complete`` when every picture of every camera is there. Else ``missing`` lists what is not, and why
(``takes.account``), and ``settled`` whether that is final: every node was asked and everything it had has come.

An MCAP file is written without chunks and without a buffer, one record at a time, so that a writer killed at any
moment loses at most the record in hand. Its parts:

- attachment ``cameras.json``: the calibration, before anything else
- channel ``/camera/<id>``: each received frame; schema ``headstream.Frame``
- channels ``/topology``, ``/mesh``, ``/fault``, ``/statistics``: msgpack maps; schemas ``headstream.*``

``log_time`` is the server's clock when the record was written, ``publish_time`` the moment that it is about (the
exposure).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from protocol.errors import HeadstreamError

VERSION = 1
MCAP_NAME, BACKFILL_NAME, INFO_NAME, CALIBRATION_NAME = "take.mcap", "backfill.mcap", "take.json", "cameras.json"
PROFILE = "headstream"
CAMERA_TOPIC = "/camera/"

# Schemas are text for people: what a program needs to read a channel without this package.
FRAME_SCHEMA = """\
bytes 0..3: length n of the header, uint32 little-endian
bytes 4..4+n: header, a msgpack array: version, schema, bytes and CRC-32 of the JPEG, camera, node, sequence,
  trigger (or nil), device_ns, node_ns, offset_ns, offset_sigma_ns, width, height, incarnation (schema 1: without);
  server clock = node_ns + offset_ns; camera, incarnation (of the node's process) and sequence name a picture
the rest: the JPEG as it was received
"""
SCHEMAS = {
    "/topology": """\
msgpack map: id int; faces bytes: int32 little-endian, 3 a face, counter-clockwise from outside;
uv: nil or bytes: float32 little-endian, 2 a corner, 3 corners a face (an atlas has seams, vertices are not doubled)
""",
    "/mesh": """\
msgpack map: index int (of the frame set), capture_ns int (server clock), topology int (id), kind str (keyframe, warm),
vertices bytes: float32 little-endian, 3 a vertex, world metres, Y up; quality map; timing map (seconds a stage);
missing array of str (cameras that were not in the set); spread_ns int (newest minus oldest exposure);
timecode str (SMPTE hh:mm:ss:ff, a semicolon before ff where labels are dropped; empty where the rig stamps none)
""",
    "/fault": "msgpack map: text str, one line\n",
    "/statistics": "msgpack map of what the server counted when the take ended\n",
}


class TakeError(HeadstreamError):
    """A take that cannot be written or read; the message names the path."""


@dataclass(frozen=True, eq=False)
class Topology:
    """How vertices are joined: faces (F, 3) int32; uv (F, 3, 2) float32, of the faces' corners, where known."""

    id: int
    faces: np.ndarray
    uv: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class TakeMesh:
    """One mesh of a take; its faces are those of the topology of that id."""

    index: int  # of the frame set: trigger or counter
    capture_ns: int  # server clock
    topology: int
    vertices: np.ndarray  # P,3 float32, world metres
    kind: str
    quality: dict[str, Any]
    timing: dict[str, float]  # seconds a stage
    missing: tuple[str, ...] = ()
    spread_ns: int = 0
    timecode: str = ""  # SMPTE; empty where the rig stamps none, and in takes older than that


def plain(value: Any) -> Any:
    """A value of NumPy or a tuple as msgpack takes it."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)
